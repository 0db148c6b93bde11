# Baseline: the plain mean of the three teachers' probabilities.
_base_ = 'amtml_resnet20_cifar10.py'

model = dict(
    methods=dict(
        _delete_=True,
        kd=dict(type='SoftTarget', temperature=5.0, loss_weight=0.7, ensemble='arithmetic'),
    )
)
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=85.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
