# Stage 1 of IE-KD with the small network of student_alone.py as the teacher.
_base_ = 'paraphraser.py'

model = dict(
    teacher=dict(
        name='resnet8',
        model='{{fileDirname}}/student_alone.py',
        checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/student_alone/epoch_30.pth',
    )
)
