# WRN-40-1 as a teacher, the map that methods of factors compare, and its paraphraser.
teacher = dict(
    name='wrn40_1',
    model='{{fileDirname}}/../wrn40_1_160e_cifar10.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/wrn40_1_160e_cifar10/epoch_160.pth',
)
teacher_map = 'backbone.relu'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_wrn40_1_cifar10/epoch_30.pth'
