# Train first: baselines/resnet56_1xb128-160e_cifar10.py
_base_ = '../_base_/pairs/resnet56_resnet20_cifar10.py'

model = dict(methods=dict(cwd=dict(type='CWD', pairs=_base_.pairs.stages, loss_weight=1.0)))
