# WRN-40-1 teaches ResNet-20.
_base_ = ['../resnet20_160e_cifar10.py', 'teacher_wrn40_1.py', 'methods.py']

model = dict(
    _delete_=True, type='mmkd_plugin.Distiller', student=_base_.model, teachers=[_base_.teacher]
)
pairs = dict(
    stages=[dict(student=f'backbone.layer{n}', teacher=f'backbone.layer{n}') for n in (1, 2, 3)],
    factor=[
        dict(student='backbone.layer3', teacher=_base_.teacher_map, checkpoint=_base_.paraphraser)
    ],
    # A wide residual network normalises and activates a stage's map where the next begins.
    before_relu=[
        dict(student=f'backbone.layer{n}.2.relu2:input', teacher=norm, norm=norm)
        for n, norm in enumerate(
            ('backbone.layer2.0.bn1', 'backbone.layer3.0.bn1', 'backbone.norm'), 1
        )
    ],
)
