_base_ = 'wrn-16-1_1xb128-160e_cifar10.py'

model = dict(backbone=dict(depth=40, widen_factor=1), head=dict(in_channels=64))
