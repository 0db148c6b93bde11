# Teacher: Faster R-CNN-R101. Student: Faster R-CNN-R50 with MMDet's data and schedule.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../hooks/coco.py']

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name='r101',
            model='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
            checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/'
            'faster_rcnn_r101_fpn_2x_coco/'
            'faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth',
        )
    ],
)
# P6 is a part of P5: PKD, FGD and MGD pair P2 to P5, as their published configs do.
pyramid = [dict(student=f'neck[{level}]', teacher=f'neck[{level}]') for level in range(4)]
