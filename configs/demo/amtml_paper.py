# AMTML-KD from three specialists. The teachers' weights are learned by the paper's objective, which
# takes no labels.
_base_ = 'student_alone.py'

specialist = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmkd_plugin.CifarResNet',
        depth=8,
        in_channels=1,
        base_channels=16,
        stem_stride=2,
        shortcut='conv',
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
work_root = '{{$MMKD_WORK_DIR:work_dirs}}'

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name=f'knows {digits}',
            model=specialist,
            checkpoint=f'{work_root}/teacher_{digits}/epoch_50.pth',
        )
        for digits in ('01234', '34567', '01789')
    ],
    methods=dict(
        amtml=dict(
            type='AMTMLKD',
            temperature=4.0,
            kd_weight=0.9,
            student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
            teacher_taps='backbone.layer3',
            objective='paper',
        )
    ),
    task_weight=0.1,
)
# Weight decay would make all teachers' weights equal.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.weighting.': dict(decay_mult=0.0)}))
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=50.0),
    dict(type='mmkd_plugin.LogTeacherWeights'),
    dict(type='mmkd_plugin.SaveStudent'),
]
