_base_ = 'wrn-16-1_1xb128-160e_cifar10.py'

model = dict(backbone=dict(depth=46, widen_factor=4), head=dict(in_channels=256))
