# RetinaNet-R101 as a teacher, with the weights that MMDet publishes, and the paraphrasers of three
# levels of its pyramid.
teacher = dict(
    name='r101',
    model='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/retinanet/'
    'retinanet_r101_fpn_2x_coco/retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
)
pairs = [
    dict(
        student=f'neck[{level - 3}]',
        teacher=f'neck[{level - 3}]',
        checkpoint=f'{{$MMKD_WORK_DIR:work_dirs}}/paraphraser-p{level}_retinanet_r101_fpn_8xb2-1e_coco'
        '/epoch_1.pth',
    )
    for level in (3, 4, 5)
]
