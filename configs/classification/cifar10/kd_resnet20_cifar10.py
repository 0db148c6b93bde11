# Baseline: the deepest teacher alone.
_base_ = 'kd_mean_resnet20_cifar10.py'

model = dict(
    teachers=[
        dict(
            name='resnet110',
            model='{{fileDirname}}/resnet110_cifar10.py',
            checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/resnet110_cifar10/epoch_200.pth',
        )
    ]
)
