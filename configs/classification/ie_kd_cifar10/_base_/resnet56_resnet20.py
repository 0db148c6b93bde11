# ResNet-56 teaches ResNet-20.
_base_ = ['../resnet20_160e_cifar10.py', 'teacher_resnet56.py', 'methods.py']

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
