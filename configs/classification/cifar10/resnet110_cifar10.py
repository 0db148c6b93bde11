# It starts at a tenth of the rate, as in He et al., section 4.2: at 0.1 so deep a network may not begin to learn.
_base_ = 'resnet20_cifar10.py'

model = dict(backbone=dict(depth=110))
param_scheduler = [
    dict(
        type='ConstantLR', factor=0.1, by_epoch=False, end=401
    ),  # 400 steps: MMEngine ends one early
    dict(type='MultiStepLR', by_epoch=True, milestones=[100, 150], gamma=0.1),
]
