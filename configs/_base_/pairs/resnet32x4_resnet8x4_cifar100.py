# Teacher: ResNet-32x4. Student: ResNet-8x4. Data: CIFAR-100.
_base_ = ['../../baselines/resnet8x4_1xb64-240e_cifar100.py', '../hooks/cifar100.py']

model = dict(
    _delete_=True,
    type='mmkd_plugin.Distiller',
    student=_base_.model,
    teachers=[
        dict(
            name='resnet32x4',
            model='{{fileDirname}}/../../baselines/resnet32x4_1xb64-240e_cifar100.py',
            checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/resnet32x4_1xb64-240e_cifar100/epoch_240.pth',
        )
    ],
)
