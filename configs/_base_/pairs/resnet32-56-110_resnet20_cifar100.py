# Teachers: ResNet-32, ResNet-56, ResNet-110. Student: ResNet-20. Data: CIFAR-100.
_base_ = [
    '../../baselines/resnet20_1xb128-200e_cifar100.py',
    '../methods/amtml_kd_cifar.py',
    '../hooks/cifar100.py',
]

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name=f'resnet{depth}',
            model=f'{{fileDirname}}/../../baselines/resnet{depth}_1xb128-200e_cifar100.py',
            checkpoint=f'{{$MMKD_WORK_DIR:work_dirs}}/resnet{depth}_1xb128-200e_cifar100/epoch_200.pth',
        )
        for depth in (32, 56, 110)
    ],
    task_weight=0.3,
)
