# Stage 1 of IE-KD: an autoencoder of P3 of the teacher's pyramid. Its encoder gives the factor that
# the student inherits. Its validation mAP is that of the teacher with the reconstructed level.
_base_ = 'teacher_gfl_r18.py'

model = dict(
    _delete_=True,
    type='mmkd_plugin.ParaphraserTrainer',
    teacher=dict(
        name='r18',
        model=_base_.model,
        checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/teacher_gfl_r18/iter_1500.pth',
    ),
    tap='neck[0]',
    paraphraser=dict(type='Paraphraser', factor_rate=0.5),
)
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
