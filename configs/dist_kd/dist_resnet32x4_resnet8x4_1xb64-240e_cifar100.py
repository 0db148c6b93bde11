# Train first: baselines/resnet32x4_1xb64-240e_cifar100.py
_base_ = '../_base_/pairs/resnet32x4_resnet8x4_cifar100.py'

model = dict(
    methods=dict(dist=dict(type='DIST', temperature=4.0, loss_weight=1.0)),
)
