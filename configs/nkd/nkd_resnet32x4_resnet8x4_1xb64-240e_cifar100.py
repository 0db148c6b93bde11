# Train first: baselines/resnet32x4_1xb64-240e_cifar100.py
_base_ = '../_base_/pairs/resnet32x4_resnet8x4_cifar100.py'

model = dict(
    methods=dict(nkd=dict(type='NKD', temperature=1.0, gamma=1.5)),
)
