# Soft targets, at the student's own regions, and IE-KD on the attention of the pyramid. Student,
# data and schedule are MMDet's; the weights are not tuned.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/hooks/coco.py']

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
    methods=dict(
        kd=dict(type='SoftTarget', temperature=1.0),
        ie=dict(
            type='IEKD',
            knowledge='attention',
            pairs=[dict(student=f'neck[{level}]', teacher=f'neck[{level}]') for level in range(4)],
            reduction='size_invariant',
        ),
    ),
)
