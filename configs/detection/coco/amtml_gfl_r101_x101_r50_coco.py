# AMTML-KD with two teachers, GFL-R101 and GFL-X101, and all its parts: targets mixed for each image, angles, and a hint from
# each teacher's pyramid to a stage of the student's own, the better teacher to the higher one. Untuned, as kd_gfl_*.py.
_base_ = 'kd_gfl_r101_r50_coco.py'

x101 = dict(
    name='x101',
    model='mmdet::gfl/gfl_x101-32x4d_fpn_ms-2x_coco.py',
    checkpoint='https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_x101_32x4d_fpn_mstrain_2x_coco/'
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
# Decay pulls the weights of the teachers to equality.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'weighting': dict(decay_mult=0.0)}))
