# Train first: baselines/resnet56_1xb128-160e_cifar10.py
_base_ = '../_base_/pairs/resnet56_resnet20_cifar10.py'

model = dict(methods=dict(od=dict(pairs=_base_.pairs.before_relu, **_base_.methods.od)))
