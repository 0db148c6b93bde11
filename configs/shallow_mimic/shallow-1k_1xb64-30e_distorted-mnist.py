# One convolution, pooling to 7x7, a linear bottleneck of 64 units, 1,024 hidden units, trained on
# labels alone: the baseline of the mimic network.
_base_ = '../_base_/distorted_mnist.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmkd_plugin.ShallowMimicNet',
        in_channels=1,
        input_size=28,
        conv_channels=8,
        pool_size=4,
        pool_stride=4,
        bottleneck_channels=64,
        hidden_channels=1024,
    ),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=1024, loss=dict(type='CrossEntropyLoss')
    ),
)
train_dataloader = dict(dataset=dict(views=2))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=6e-3, weight_decay=0.01),
)
