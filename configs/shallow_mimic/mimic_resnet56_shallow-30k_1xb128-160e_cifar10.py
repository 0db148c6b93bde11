# Train first: baselines/resnet56_1xb128-160e_cifar10.py
_base_ = [
    'shallow-30k_1xb128-160e_cifar10.py',
    '../_base_/teachers/resnet56_cifar10.py',
    '../_base_/hooks/cifar10.py',
]

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[_base_.teacher],
    methods=dict(mimic=dict(type='LogitMimic', standardize=True)),
    task_weight=0,  # no label is used: the transfer set may be any images
)
custom_hooks = [dict(type='mmkd_plugin.MeasureLogits'), *_base_.custom_hooks]
