# CIFAR-100, three networks, and the schedule of Deep Mutual Learning: SGD with Nesterov momentum,
# 64 images a step, 200 epochs, the rate divided by 10 after 60, 120 and 180.
_base_ = [
    'datasets/cifar100_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(nesterov=True, weight_decay=5e-4))
param_scheduler = dict(milestones=[60, 120, 180])
# The last epoch counts, not the best on the test set.
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))

_classifier = dict(type='ImageClassifier', neck=dict(type='GlobalAveragePooling'))
_head = dict(type='LinearClsHead', num_classes=100, loss=dict(type='CrossEntropyLoss'))
resnet32 = dict(
    **_classifier,
    backbone=dict(type='mmkd_plugin.CifarResNet', depth=32),
    head=dict(**_head, in_channels=64),
)
wrn_28_10 = dict(
    **_classifier,
    backbone=dict(type='mmkd_plugin.CifarWideResNet', depth=28, widen_factor=10),
    head=dict(**_head, in_channels=640),
)
mobilenet = dict(
    **_classifier,
    backbone=dict(type='mmkd_plugin.CifarMobileNet'),
    head=dict(**_head, in_channels=1024),
)
