# Teacher: WRN-16-2. Student: WRN-16-1.
_base_ = [
    '../../baselines/wrn-16-1_1xb128-160e_cifar10.py',
    '../teachers/wrn-16-2_cifar10.py',
    '../methods/ie_kd_cifar10.py',
    '../hooks/cifar10.py',
]

model = dict(
    _delete_=True, type='mmkd_plugin.Distiller', student=_base_.model, teachers=[_base_.teacher]
)
pairs = dict(
    stages=[dict(student=f'backbone.layer{n}', teacher=f'backbone.layer{n}') for n in (1, 2, 3)],
    factor=[
        dict(student='backbone.relu', teacher=_base_.teacher_map, checkpoint=_base_.paraphraser)
    ],
    before_relu=[
        dict(student=norm, teacher=norm, norm=norm)
        for norm in ('backbone.layer2.0.bn1', 'backbone.layer3.0.bn1', 'backbone.norm')
    ],
)
