# Train first: baselines/resnet32x4_1xb64-240e_cifar100.py
_base_ = '../_base_/pairs/resnet32x4_resnet8x4_cifar100.py'

model = dict(
    methods=dict(kd=dict(type='SoftTarget', temperature=4.0, loss_weight=0.9)),
    task_weight=0.1,
)
