# Train first: baselines/wrn-16-2_1xb128-160e_cifar10.py
# and then ie_kd/paraphraser_wrn-16-2_1xb128-30e_cifar10.py
_base_ = '../_base_/pairs/wrn-16-2_wrn-16-1_cifar10.py'

model = dict(methods=dict(ft=dict(pairs=_base_.pairs.factor, **_base_.methods.ft)))
