# The shortcuts between two sizes are 1x1 convolutions, as in the authors' code of IE-KD.
_base_ = '../_base_/cifar10_160e.py'

model = dict(
    backbone=dict(type='mmkd_plugin.CifarResNet', depth=20, shortcut='conv'),
    head=dict(in_channels=64),
)
