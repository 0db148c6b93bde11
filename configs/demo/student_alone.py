# ResNet-8 with 19,810 parameters, trained on labels alone: the baseline of every distilled student.
_base_ = '../_base_/distorted_mnist.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmkd_plugin.CifarResNet',
        depth=8,
        in_channels=1,
        base_channels=8,
        stem_stride=2,
        shortcut='conv',
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=32, loss=dict(type='CrossEntropyLoss')
    ),
)
