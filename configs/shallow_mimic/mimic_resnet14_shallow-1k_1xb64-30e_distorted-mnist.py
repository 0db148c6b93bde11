# Train first: demo/teacher_resnet14.py
_base_ = 'shallow-1k_1xb64-30e_distorted-mnist.py'

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name='resnet14',
            model='{{fileDirname}}/../demo/teacher_resnet14.py',
            checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/teacher_resnet14/epoch_50.pth',
        )
    ],
    methods=dict(mimic=dict(type='LogitMimic')),
    task_weight=0,
)
train_dataloader = dict(dataset=dict(labels=False))  # the transfer set has no labels
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=80.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
