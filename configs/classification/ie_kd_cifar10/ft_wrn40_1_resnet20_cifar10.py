# After wrn40_1_160e_cifar10.py and paraphraser_wrn40_1_cifar10.py.
_base_ = '_base_/wrn40_1_resnet20.py'

model = dict(methods=dict(ft=dict(pairs=_base_.pairs.factor, **_base_.methods.ft)))
