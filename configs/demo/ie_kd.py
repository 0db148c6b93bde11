# Stage 2 of IE-KD: half of the student's last map inherits the teacher's factor, the other half
# explores what this factor lacks.
# Train first: teacher_resnet14.py and then paraphraser.py
_base_ = 'student_alone.py'

here = '{{fileDirname}}'
work_root = '{{$MMKD_WORK_DIR:work_dirs}}'
last_map = 'backbone.layer3'

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name='resnet14',
            model=f'{here}/teacher_resnet14.py',
            checkpoint=f'{work_root}/teacher_resnet14/epoch_50.pth',
        )
    ],
    methods=dict(
        ie=dict(
            type='IEKD',
            pairs=[
                dict(
                    student=last_map,
                    teacher=last_map,
                    checkpoint=f'{work_root}/paraphraser/epoch_30.pth',
                )
            ],
            inherit_weight=50.0,
            explore_weight=50.0,
        )
    ),
)
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=80.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
