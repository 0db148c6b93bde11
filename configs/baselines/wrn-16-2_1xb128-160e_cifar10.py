_base_ = 'wrn-16-1_1xb128-160e_cifar10.py'

model = dict(backbone=dict(depth=16, widen_factor=2), head=dict(in_channels=128))
