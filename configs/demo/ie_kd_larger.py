# A student four times as large as its teacher: it inherits what 19,810 parameters know, and has room to explore.
# Train its stages in a row: tools/train.py student_alone.py paraphraser_small.py ie_kd_larger.py; compare with larger_alone.py.
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
