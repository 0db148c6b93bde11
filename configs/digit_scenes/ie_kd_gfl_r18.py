# Stage 2 of IE-KD, on two levels of the pyramid: half of each level inherits the teacher's factor,
# the other half explores what this factor lacks.
# Train first: teacher_gfl_r18.py, and then paraphraser_gfl_r18_p3.py and paraphraser_gfl_r18_p4.py
_base_ = 'student_gfl_r18.py'

here = '{{fileDirname}}'
work_root = '{{$MMKD_WORK_DIR:work_dirs}}'

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name='r18',
            model=f'{here}/teacher_gfl_r18.py',
            checkpoint=f'{work_root}/teacher_gfl_r18/iter_1500.pth',
        )
    ],
    methods=dict(
        ie=dict(
            type='IEKD',
            pairs=[
                dict(
                    student=tap,
                    teacher=tap,
                    checkpoint=f'{work_root}/paraphraser_gfl_r18_{level}/iter_300.pth',
                )
                for tap, level in (('neck[0]', 'p3'), ('neck[1]', 'p4'))
            ],
            inherit_weight=60.0,
            explore_weight=2.5,
            reduction='size_invariant',
        )
    ),
)
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=0.3),
    dict(type='mmkd_plugin.SaveStudent'),
]
