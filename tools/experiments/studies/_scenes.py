# The training data of stored teachers on DigitScenes: one fixed view of each scene.
_stored_scenes = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd_plugin.ReplayedDataset',
        views=1,
        dataset=dict(
            type='mmkd_plugin.DigitScenes',
            split='train',
            data_root='data/digit_scenes',
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='PackDetInputs'),
            ],
        ),
    ),
    sampler=dict(_delete_=True, type='mmkd_plugin.ReplaySampler', shuffle=True, infinite=True),
)
