# CIFAR-10 and the schedule of IE-KD for all its networks, as in the authors' code: reflection
# padding, SGD with Nesterov momentum, 160 epochs, the rate divided by 10 after 80 and 120.
_base_ = [
    'models/cifar_classifier.py',
    'datasets/cifar10_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4, padding_mode='reflect'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ]
    ),
)
optim_wrapper = dict(optimizer=dict(nesterov=True, weight_decay=5e-4))
param_scheduler = dict(milestones=[80, 120])
train_cfg = dict(max_epochs=160)
# The last epoch counts, not the best on the test set.
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
