# Teacher: ResNet-56. Student: ResNet-20.
_base_ = [
    '../../baselines/resnet20_1xb128-160e_cifar10.py',
    '../teachers/resnet56_cifar10.py',
    '../methods/ie_kd_cifar10.py',
    '../hooks/cifar10.py',
]

model = dict(
    _delete_=True, type='mmkd_plugin.Distiller', student=_base_.model, teachers=[_base_.teacher]
)
pairs = dict(
    stages=[dict(student=f'backbone.layer{n}', teacher=f'backbone.layer{n}') for n in (1, 2, 3)],
    factor=[
        dict(student='backbone.layer3', teacher=_base_.teacher_map, checkpoint=_base_.paraphraser)
    ],
    before_relu=[
        dict(
            student=f'backbone.layer{n}.2.relu2:input',
            teacher=f'backbone.layer{n}.8.relu2:input',
            norm=f'backbone.layer{n}.8.bn2',
        )
        for n in (1, 2, 3)
    ],
)
