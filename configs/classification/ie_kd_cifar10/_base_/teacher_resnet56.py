# ResNet-56 as a teacher, the map that methods of factors compare, and its paraphraser.
teacher = dict(
    name='resnet56',
    model='{{fileDirname}}/../resnet56_160e_cifar10.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/resnet56_160e_cifar10/epoch_160.pth',
)
teacher_map = 'backbone.layer3'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_resnet56_cifar10/epoch_30.pth'
