_base_ = '../_base_/cifar100_240e.py'

model = dict(backbone=dict(depth=8))
