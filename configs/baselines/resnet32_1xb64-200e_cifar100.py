# A peer of DML and IE-DML, trained alone.
_base_ = '../_base_/cifar100_mutual.py'

model = _base_.resnet32
