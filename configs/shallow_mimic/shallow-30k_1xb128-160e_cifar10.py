# One convolution, pooling to 15x15, a linear bottleneck of 1,200 units, 30,000 hidden units,
# trained on labels alone: the baseline of the mimic network.
_base_ = '../_base_/cifar10_160e.py'

model = dict(
    backbone=dict(
        type='mmkd_plugin.ShallowMimicNet',
        input_size=32,
        conv_channels=128,
        bottleneck_channels=1200,
        hidden_channels=30_000,
    ),
    neck=None,
    head=dict(in_channels=30_000),
)
# So many units without normalisation need small steps: SGD at 1e-4 and AdamW at 2e-4 diverge.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-5, weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(type='MultiStepLR', milestones=[80, 120], gamma=0.1),
]
