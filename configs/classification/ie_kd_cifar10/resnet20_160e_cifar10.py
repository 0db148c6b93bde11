# As in the authors' code, 1x1 convolutions join two sizes.
_base_ = '_base_/cifar10_160e.py'

model = dict(
    backbone=dict(type='mmkd_plugin.CifarResNet', depth=20, shortcut='conv'),
    head=dict(in_channels=64),
)
