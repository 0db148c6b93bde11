# RetinaNet-R101 as a teacher, with the weights that MMDet publishes, and the paraphrasers of three levels of its pyramid.
work_dirs = '{{$MMKD_WORK_DIR:work_dirs}}'
teacher = dict(
    name='r101',
    model='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
    'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
)
pairs = [
    dict(
        student=tap,
        teacher=tap,
        checkpoint=f'{work_dirs}/paraphraser_p{level}_retinanet_r101_coco/epoch_1.pth',
    )
    for level, tap in ((3, 'neck[0]'), (4, 'neck[1]'), (5, 'neck[2]'))
]
