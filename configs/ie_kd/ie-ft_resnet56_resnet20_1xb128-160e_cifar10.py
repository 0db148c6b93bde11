# Train first: baselines/resnet56_1xb128-160e_cifar10.py
# and then ie_kd/paraphraser_resnet56_1xb128-30e_cifar10.py
_base_ = '../_base_/pairs/resnet56_resnet20_cifar10.py'

model = dict(methods=dict(ie=dict(pairs=_base_.pairs.factor, **_base_.methods.ie_ft)))
