# After wrn46_4_160e_cifar10.py and paraphraser_wrn46_4_cifar10.py.
_base_ = '_base_/wrn46_4_vgg13.py'

model = dict(methods=dict(ie=dict(pairs=_base_.pairs.factor, **_base_.methods.ie_ft)))
