# Teacher: RetinaNet-R101. Student: RetinaNet-R50 with MMDet's data and schedule.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../hooks/coco.py']

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name='r101',
            model='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
            checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/'
            'retinanet_r101_fpn_2x_coco/'
            'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
        )
    ],
)
pyramid = [dict(student=f'neck[{level}]', teacher=f'neck[{level}]') for level in range(5)]
