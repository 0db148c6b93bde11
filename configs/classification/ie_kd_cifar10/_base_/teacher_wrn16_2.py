# WRN-16-2 as a teacher, the map that methods of factors compare, and its paraphraser.
teacher = dict(
    name='wrn16_2',
    model='{{fileDirname}}/../wrn16_2_160e_cifar10.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/wrn16_2_160e_cifar10/epoch_160.pth',
)
teacher_map = 'backbone.relu'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_wrn16_2_cifar10/epoch_30.pth'
