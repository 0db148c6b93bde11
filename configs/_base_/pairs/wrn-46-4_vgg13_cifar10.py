# Teacher: WRN-46-4. Student: VGG-13. Stages 1 and 2 of VGG-13 have the sizes of its
# teacher's. Its last map, 2x2, is compared with the teacher's last, 8x8.
_base_ = [
    '../../baselines/vgg13_1xb128-160e_cifar10.py',
    '../teachers/wrn-46-4_cifar10.py',
    '../methods/ie_kd_cifar10.py',
    '../hooks/cifar10.py',
]

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
        dict(student=f'backbone.layer{n}.1.relu:input', teacher=norm, norm=norm)
        for n, norm in (
            (1, 'backbone.layer2.0.bn1'),
            (2, 'backbone.layer3.0.bn1'),
            (5, 'backbone.norm'),
        )
    ],
)
