# Train first: baselines/wrn-46-4_1xb128-160e_cifar10.py
_base_ = '../_base_/pairs/wrn-46-4_vgg13_cifar10.py'

model = dict(methods=dict(at=dict(pairs=_base_.pairs.stages, **_base_.methods.at)))
