# WRN-46-4 as a teacher, the map that methods of factors compare, and its paraphraser.
teacher = dict(
    name='wrn46_4',
    model='{{fileDirname}}/../wrn46_4_160e_cifar10.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/wrn46_4_160e_cifar10/epoch_160.pth',
)
teacher_map = 'backbone.relu'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_wrn46_4_cifar10/epoch_30.pth'
