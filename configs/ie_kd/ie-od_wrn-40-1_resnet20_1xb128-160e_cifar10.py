# Train first: baselines/wrn-40-1_1xb128-160e_cifar10.py
_base_ = '../_base_/pairs/wrn-40-1_resnet20_cifar10.py'

model = dict(methods=dict(ie=dict(pairs=_base_.pairs.before_relu, **_base_.methods.ie_od)))
