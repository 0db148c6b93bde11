# Train first: baselines/wrn-16-2_1xb128-160e_cifar10.py
_base_ = '../_base_/pairs/wrn-16-2_wrn-16-1_cifar10.py'

model = dict(methods=dict(ie=dict(pairs=_base_.pairs.before_relu, **_base_.methods.ie_od)))
