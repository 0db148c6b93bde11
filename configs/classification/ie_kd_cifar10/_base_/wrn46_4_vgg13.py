# WRN-46-4 teaches VGG-13, whose stages 1 and 2 are as large as its teacher's; its last, 2x2, is compared with the last, 8x8.
_base_ = ['../vgg13_160e_cifar10.py', 'teacher_wrn46_4.py', 'methods.py']

model = dict(
    _delete_=True, type='mmkd_plugin.Distiller', student=_base_.model, teachers=[_base_.teacher]
)
pairs = dict(
    stages=[
        dict(student=f'backbone.layer{s}', teacher=f'backbone.layer{t}')
        for s, t in ((1, 1), (2, 2), (5, 3))
    ],
    factor=[
        dict(student='backbone.layer5', teacher=_base_.teacher_map, checkpoint=_base_.paraphraser)
    ],
    before_relu=[
        dict(
            student='backbone.layer1.1.relu:input',
            teacher='backbone.layer2.0.bn1',
            norm='backbone.layer2.0.bn1',
        ),
        dict(
            student='backbone.layer2.1.relu:input',
            teacher='backbone.layer3.0.bn1',
            norm='backbone.layer3.0.bn1',
        ),
        dict(student='backbone.layer5.1.relu:input', teacher='backbone.norm', norm='backbone.norm'),
    ],
)
