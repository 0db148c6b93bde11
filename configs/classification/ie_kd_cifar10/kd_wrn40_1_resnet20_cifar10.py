# After wrn40_1_160e_cifar10.py.
_base_ = '_base_/wrn40_1_resnet20.py'

model = dict(methods=dict(kd=_base_.methods.kd), task_weight=0.05)
