# After resnet56_160e_cifar10.py.
_base_ = '_base_/resnet56_resnet20.py'

model = dict(methods=dict(kd=_base_.methods.kd), task_weight=0.05)
