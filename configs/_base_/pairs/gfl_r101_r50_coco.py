# Teacher: GFL-R101. Student: GFL-R50 with MMDet's data and schedule.
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name='r101',
            model='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
            checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/'
            'gfl_r101_fpn_mstrain_2x_coco/'
            'gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth',
        )
    ],
)
pyramid = [dict(student=f'neck[{level}]', teacher=f'neck[{level}]') for level in range(5)]
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=0.4),
    dict(type='mmkd_plugin.SaveStudent'),
]
