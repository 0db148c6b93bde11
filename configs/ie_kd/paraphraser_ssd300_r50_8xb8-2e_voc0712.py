# Stage 1: an autoencoder of the teacher's last stage, two epochs, in which each image is seen 20
# times.
# Train first: baselines/ssd300_r50_8xb8-24e_voc0712.py
_base_ = [
    '../baselines/ssd300_r18_8xb8-24e_voc0712.py',
    '../_base_/teachers/ssd300_r50_voc0712.py',
]

model = dict(
    _delete_=True,
    type='mmkd_plugin.ParaphraserTrainer',
    teacher=_base_.teacher,
    tap=_base_.teacher_map,
    paraphraser=dict(factor_rate=0.5),
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = None
train_cfg = dict(max_epochs=2)
