# WRN-46-4 as a teacher, the map that methods on factors compare, and the paraphraser of this map.
teacher = dict(
    name='wrn46_4',
    model='{{fileDirname}}/../../baselines/wrn-46-4_1xb128-160e_cifar10.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/wrn-46-4_1xb128-160e_cifar10/epoch_160.pth',
)
teacher_map = 'backbone.relu'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_wrn-46-4_1xb128-30e_cifar10/epoch_30.pth'
