# Distorted MNIST, and a schedule of seconds: one process, warm-up and cosine. The last epoch
# counts.
_base_ = 'mmpretrain::_base_/default_runtime.py'

data_preprocessor = dict(num_classes=10, mean=[42.0], std=[64.0], to_rgb=False)
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(type='mmkd_plugin.DistortedMNIST', split='train', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
    drop_last=True,
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    dataset=dict(type='mmkd_plugin.DistortedMNIST', split='val', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    dataset=dict(type='mmkd_plugin.DistortedMNIST', split='test', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-3)
)
param_scheduler = [  # both fit themselves to max_epochs
    dict(type='LinearLR', start_factor=0.04, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=3, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=10)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=1), logger=dict(interval=20))
randomness = dict(seed=0)
