# After wrn40_1_160e_cifar10.py.
_base_ = '_base_/wrn40_1_resnet20.py'

model = dict(methods=dict(od=dict(pairs=_base_.pairs.before_relu, **_base_.methods.od)))
