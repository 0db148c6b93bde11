# One network alone: what it must gain by having company.
_base_ = '_base_/cifar100_dml.py'

model = _base_.resnet32
