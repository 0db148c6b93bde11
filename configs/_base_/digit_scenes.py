# Scenes of real digits in COCO's format, and a schedule of minutes: one process, AdamW. The last
# iteration counts.
_base_ = 'mmdet::_base_/default_runtime.py'

data_root = 'data/digit_scenes'  # written at first use: 20 seconds, 135 MB
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        type='mmkd_plugin.DigitScenes',
        split='train',
        data_root=data_root,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs'),
        ],
    ),
    sampler=dict(type='InfiniteSampler', shuffle=True),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    # It changes nothing: the metric needs its scale_factor.
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        type='mmkd_plugin.DigitScenes',
        split='val',
        data_root=data_root,
        test_mode=True,
        pipeline=pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(
        type='mmkd_plugin.DigitScenes',
        split='test',
        data_root=data_root,
        test_mode=True,
        pipeline=pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='CocoMetric', ann_file=f'{data_root}/annotations/val.json', metric='bbox')
test_evaluator = dict(
    type='CocoMetric', ann_file=f'{data_root}/annotations/test.json', metric='bbox'
)

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.02), clip_grad=dict(max_norm=10)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100),  # fits itself to max_iters
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1))
randomness = dict(seed=0)
