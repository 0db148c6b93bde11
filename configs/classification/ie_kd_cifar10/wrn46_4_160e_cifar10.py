_base_ = 'wrn16_1_160e_cifar10.py'

model = dict(backbone=dict(depth=46, widen_factor=4), head=dict(in_channels=256))
