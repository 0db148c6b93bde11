# SSD300-R50 as a teacher, its last stage, and the paraphraser of this stage.
teacher = dict(
    name='r50',
    model='{{fileDirname}}/../../baselines/ssd300_r50_8xb8-24e_voc0712.py',
    checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/ssd300_r50_8xb8-24e_voc0712/epoch_24.pth',
)
teacher_map = 'backbone[2]'
paraphraser = '{{$MMKD_WORK_DIR:work_dirs}}/paraphraser_ssd300_r50_8xb8-2e_voc0712/epoch_2.pth'
