# Soft targets of the deepest of the three teachers.
_base_ = 'kd-mean_resnet32-56-110_resnet20_1xb128-200e_cifar10.py'

model = dict(teachers=[_base_.model.teachers[2]])
