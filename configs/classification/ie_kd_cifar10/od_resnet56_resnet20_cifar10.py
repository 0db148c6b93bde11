# After resnet56_160e_cifar10.py.
_base_ = '_base_/resnet56_resnet20.py'

model = dict(methods=dict(od=dict(pairs=_base_.pairs.before_relu, **_base_.methods.od)))
