_base_ = 'resnet20_1xb128-200e_cifar10.py'

model = dict(backbone=dict(depth=32))
