# After resnet56_160e_cifar10.py.
_base_ = '_base_/resnet56_resnet20.py'

model = dict(methods=dict(ie=dict(pairs=_base_.pairs.stages, **_base_.methods.ie_at)))
