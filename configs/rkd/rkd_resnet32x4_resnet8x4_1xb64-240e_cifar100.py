# Train first: baselines/resnet32x4_1xb64-240e_cifar100.py
_base_ = '../_base_/pairs/resnet32x4_resnet8x4_cifar100.py'

model = dict(
    methods=dict(rkd=dict(type='RKD', distance_weight=25.0, angle_weight=50.0, tap='neck')),
)
