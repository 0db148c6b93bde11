# After wrn46_4_160e_cifar10.py.
_base_ = '_base_/wrn46_4_vgg13.py'

model = dict(methods=dict(od=dict(pairs=_base_.pairs.before_relu, **_base_.methods.od)))
