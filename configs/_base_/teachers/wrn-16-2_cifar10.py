# WRN-16-2 as a teacher, the map that methods on factors compare, and the paraphraser of this map.
teacher = dict(
    name='wrn16_2',
    model='{{fileDirname}}/../../baselines/wrn-16-2_1xb128-160e_cifar10.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/wrn-16-2_1xb128-160e_cifar10/epoch_160.pth',
)
teacher_map = 'backbone.relu'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_wrn-16-2_1xb128-30e_cifar10/epoch_30.pth'
