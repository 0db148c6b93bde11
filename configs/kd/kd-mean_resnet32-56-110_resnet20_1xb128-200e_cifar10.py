# Soft targets: the mean of the three teachers' probabilities.
_base_ = '../_base_/pairs/resnet32-56-110_resnet20_cifar10.py'

model = dict(methods=dict(kd=_base_.methods.kd))
