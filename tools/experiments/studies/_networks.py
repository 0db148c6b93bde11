# The networks of the studies on DistortedMNIST: ResNets of 8 or 14 layers, 8 or 16 channels wide.
def _network(depth: int, width: int) -> dict:
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='mmkd_plugin.CifarResNet',
            depth=depth,
            in_channels=1,
            base_channels=width,
            stem_stride=2,
            shortcut='conv',
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=4 * width,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


_resnet8 = _network(depth=8, width=8)
_resnet8_wide = _network(depth=8, width=16)
_resnet14_wide = _network(depth=14, width=16)

# The training data of stored teachers: one fixed view of each image.
_stored_views = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd_plugin.ReplayedDataset',
        views=1,
        dataset=dict(
            type='mmkd_plugin.DistortedMNIST',
            split='train',
            pipeline=[dict(type='PackInputs')],
        ),
    ),
    sampler=dict(_delete_=True, type='mmkd_plugin.ReplaySampler', shuffle=True),
)
