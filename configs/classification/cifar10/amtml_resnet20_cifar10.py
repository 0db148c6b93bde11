# AMTML-KD with the paper's three teachers and its objective for their weights, which sees no label.
# Train its teachers first: tools/train.py takes resnet32_cifar10.py, resnet56_cifar10.py, resnet110_cifar10.py and this file in a row.
_base_ = 'resnet20_cifar10.py'

here = '{{fileDirname}}'
work_root = '{{$MMKD_WORK_DIR:work_dirs}}'

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student={{_base_.model}},
    teachers=[
        dict(
            name=f'resnet{depth}',
            model=f'{here}/resnet{depth}_cifar10.py',
            checkpoint=f'{work_root}/resnet{depth}_cifar10/epoch_200.pth',
        )
        for depth in (32, 56, 110)
    ],
    methods=dict(
        amtml=dict(
            type='AMTMLKD',
            temperature=5.0,
            kd_weight=0.7,
            student_groups=['backbone.layer1', 'backbone.layer2', 'backbone.layer3'],
            teacher_taps='backbone.layer3',
            mapping='best_high',
            objective='paper',
        )
    ),
    task_weight=0.3,
)
# The teacher factors and the direction are learned at the student's rate, without decay: it would make all weights equal.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.weighting.': dict(decay_mult=0.0)}))
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=85.0),
    dict(type='mmkd_plugin.LogTeacherWeights'),
    dict(type='mmkd_plugin.SaveStudent'),
]
