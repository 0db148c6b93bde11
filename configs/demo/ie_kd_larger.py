# IE-KD from a teacher of 19,810 parameters to a student of four times as many. Compare with
# larger_alone.py.
# Train first: student_alone.py and then paraphraser_small.py
_base_ = 'ie_kd.py'

here = '{{fileDirname}}'
work_root = '{{$MMKD_WORK_DIR:work_dirs}}'
last_map = 'backbone.layer3'

model = dict(
    student=f'{here}/larger_alone.py',
    teachers=[
        dict(
            name='resnet8',
            model=f'{here}/student_alone.py',
            checkpoint=f'{work_root}/student_alone/epoch_30.pth',
        )
    ],
    methods=dict(
        ie=dict(
            pairs=[
                dict(
                    student=last_map,
                    teacher=last_map,
                    checkpoint=f'{work_root}/paraphraser_small/epoch_30.pth',
                )
            ]
        )
    ),
)
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=60.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
