# AMTML-KD from two detectors: targets mixed for each image, angles between the most confident
# locations, and a hint from each teacher's P4 to one stage of the student. The better teacher gives
# the hint of the higher stage.
_base_ = 'student_gfl_r18.py'

here = '{{fileDirname}}'
work_root = '{{$MMKD_WORK_DIR:work_dirs}}'

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name=name,
            model=f'{here}/teacher_gfl_{name}.py',
            checkpoint=f'{work_root}/teacher_gfl_{name}/iter_1500.pth',
        )
        for name in ('r18', 'r34')
    ],
    methods=dict(
        amtml=dict(
            type='AMTMLKD',
            temperature=1.0,
            kd_weight=1.0,
            angle_weight=0.1,
            hint_weight=0.1,
            objective='label',
            embedding_tap='backbone[-1]',
            student_groups=['backbone[2]', 'backbone[3]'],
            teacher_taps='neck[1]',
        )
    ),
)
# Weight decay would make all teachers' weights equal.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.weighting.': dict(decay_mult=0.0)}))
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=0.3),
    dict(type='mmkd_plugin.LogTeacherWeights'),
    dict(type='mmkd_plugin.SaveStudent'),
]
