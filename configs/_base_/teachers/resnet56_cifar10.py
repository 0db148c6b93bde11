# ResNet-56 as a teacher, the map that methods on factors compare, and the paraphraser of this map.
teacher = dict(
    name='resnet56',
    model='{{fileDirname}}/../../baselines/resnet56_1xb128-160e_cifar10.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/resnet56_1xb128-160e_cifar10/epoch_160.pth',
)
teacher_map = 'backbone.layer3'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_resnet56_1xb128-30e_cifar10/epoch_30.pth'
