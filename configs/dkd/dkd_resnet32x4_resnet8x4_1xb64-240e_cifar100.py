# Train first: baselines/resnet32x4_1xb64-240e_cifar100.py
# The weight rises over the first 20 epochs.
_base_ = '../_base_/pairs/resnet32x4_resnet8x4_cifar100.py'

model = dict(
    methods=dict(
        dkd=dict(
            type='DKD',
            temperature=4.0,
            alpha=1.0,
            beta=8.0,
            loss_weight=dict(type='LinearSchedule', start=0.05, stop=1.0, end=19),
        )
    ),
)
