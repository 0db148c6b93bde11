# Baseline: the plain mean of the three specialists.
_base_ = 'amtml_paper.py'

model = dict(
    methods=dict(
        _delete_=True,
        kd=dict(type='SoftTarget', temperature=4.0, loss_weight=0.9, ensemble='arithmetic'),
    )
)
custom_hooks = [
    dict(type='mmkd_plugin.EvaluateTeachers', min_score=50.0),
    dict(type='mmkd_plugin.SaveStudent'),
]
