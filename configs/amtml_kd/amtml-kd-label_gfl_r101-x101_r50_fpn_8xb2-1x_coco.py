# Two teachers, GFL-R101 and GFL-X101: targets mixed for each image, angles, and a hint from each
# teacher's pyramid to one stage of the student. The better teacher gives the hint of the higher
# stage. Data and schedule are MMDet's; the weights are not tuned.
_base_ = [
    '../fitnets/kd-hint_gfl_r101_r50_fpn_8xb2-1x_coco.py',
    '../_base_/no_decay_on_weighting.py',
]

x101 = dict(
    name='x101',
    model='mmdet::gfl/gfl_x101-32x4d_fpn_ms-2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/'
    'gfl_x101_32x4d_fpn_mstrain_2x_coco/'
    'gfl_x101_32x4d_fpn_mstrain_2x_coco_20200630_102002-50c1ffdb.pth',
)
model = dict(
    teachers=[*_base_.model.teachers, x101],
    methods=dict(
        _delete_=True,
        amtml=dict(
            type='AMTMLKD',
            temperature=1.0,
            objective='label',
            embedding_tap='backbone[-1]',
            student_groups=['backbone[2]', 'backbone[3]'],
            teacher_taps='neck[2]',
            mapping='best_high',
            angle_locations=64,
        ),
    ),
)
optim_wrapper = _base_.no_decay_on_weighting
