_base_ = '../_base_/cifar10_160e.py'

model = dict(
    backbone=dict(type='mmkd_plugin.CifarWideResNet', depth=16, widen_factor=1),
    head=dict(in_channels=64),
)
