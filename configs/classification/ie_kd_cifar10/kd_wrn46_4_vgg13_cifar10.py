# After wrn46_4_160e_cifar10.py.
_base_ = '_base_/wrn46_4_vgg13.py'

model = dict(methods=dict(kd=_base_.methods.kd), task_weight=0.05)
