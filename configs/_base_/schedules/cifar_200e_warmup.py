# The same, with 400 steps at a tenth of the rate first, as in He et al., section 4.2: at 0.1 the
# training of ResNet-110 may not start.
_base_ = 'cifar_200e.py'

param_scheduler = [
    dict(type='ConstantLR', factor=0.1, by_epoch=False, end=401),  # MMEngine ends one step early
    dict(type='MultiStepLR', by_epoch=True, milestones=[100, 150], gamma=0.1),
]
