_base_ = 'wrn16_1_160e_cifar10.py'

model = dict(backbone=dict(depth=16, widen_factor=2), head=dict(in_channels=128))
