# ResNet-20 and the schedule of AMTML-KD: SGD, 200 epochs, a tenth of the rate after 100 and 150.
_base_ = ['mmpretrain::_base_/schedules/cifar10_bs128.py', 'mmpretrain::_base_/default_runtime.py']

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkd_plugin.CifarResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')
    ),
)
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1)
)  # the last epoch counts, not the best on the test
