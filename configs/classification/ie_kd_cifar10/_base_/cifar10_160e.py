# CIFAR-10 and the schedule of IE-KD, for teachers and students alike, as in the authors' code: reflecting pads, SGD with
# Nesterov's momentum, 160 epochs, a tenth of the rate after 80 and 120.
_base_ = [
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, loss=dict(type='CrossEntropyLoss')),
)
data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4, padding_mode='reflect'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    ),
)
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(nesterov=True, weight_decay=5e-4))
param_scheduler = dict(milestones=[80, 120])
train_cfg = dict(max_epochs=160)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1)
)  # the last epoch counts, not the best on the test
