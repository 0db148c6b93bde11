# After wrn16_2_160e_cifar10.py and paraphraser_wrn16_2_cifar10.py.
_base_ = '_base_/wrn16_2_wrn16_1.py'

model = dict(methods=dict(ft=dict(pairs=_base_.pairs.factor, **_base_.methods.ft)))
