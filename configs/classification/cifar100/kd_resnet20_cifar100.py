# Baseline: the deepest teacher alone.
_base_ = 'kd_mean_resnet20_cifar100.py'

model = dict(
    teachers=[
        dict(
            name='resnet110',
            model='{{fileDirname}}/resnet110_cifar100.py',
            checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/resnet110_cifar100/epoch_200.pth',
        )
    ]
)
