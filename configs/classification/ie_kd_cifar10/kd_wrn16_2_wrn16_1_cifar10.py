# After wrn16_2_160e_cifar10.py.
_base_ = '_base_/wrn16_2_wrn16_1.py'

model = dict(methods=dict(kd=_base_.methods.kd), task_weight=0.05)
