# After resnet56_160e_cifar10.py and paraphraser_resnet56_cifar10.py.
_base_ = '_base_/resnet56_resnet20.py'

model = dict(methods=dict(ft=dict(pairs=_base_.pairs.factor, **_base_.methods.ft)))
