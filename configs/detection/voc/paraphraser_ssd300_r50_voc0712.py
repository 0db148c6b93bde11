# Stage 1: an autoencoder learns the last stage of the teacher, in two epochs, which see each image twenty times. After
# ssd300_r50_voc0712.py.
_base_ = ['_base_/ssd300_resnet18.py', '_base_/teacher_ssd300_r50.py']

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
