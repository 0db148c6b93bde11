# Stage 1 of IE-KD: an autoencoder of the teacher's last map. Its encoder gives the factor that the
# student inherits. Its validation accuracy is that of the teacher with the reconstructed map.
_base_ = 'teacher_resnet14.py'

model = dict(
    _delete_=True,
    type='mmkd_plugin.ParaphraserTrainer',
    teacher=dict(
        name='resnet14',
        model=_base_.model,
        checkpoint='{{$MMKD_WORK_DIR:work_dirs}}/teacher_resnet14/epoch_50.pth',
    ),
    tap='backbone.layer3',
    paraphraser=dict(type='Paraphraser', factor_rate=0.5),
)
train_cfg = dict(max_epochs=30, val_interval=10)
