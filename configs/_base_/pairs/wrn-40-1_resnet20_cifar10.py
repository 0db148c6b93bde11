# Teacher: WRN-40-1. Student: ResNet-20.
_base_ = [
    '../../baselines/resnet20_1xb128-160e_cifar10.py',
    '../teachers/wrn-40-1_cifar10.py',
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
    # In a wide residual network the next stage has the last BatchNorm and ReLU of a stage's map.
    before_relu=[
        dict(student=f'backbone.layer{n}.2.relu2:input', teacher=norm, norm=norm)
        for n, norm in enumerate(
            ('backbone.layer2.0.bn1', 'backbone.layer3.0.bn1', 'backbone.norm'), 1
        )
    ],
)
