# Stage 1 of IE-KD and of factor transfer: 15,000 steps, rather more than CIFAR-10's 30 epochs.
_base_ = ['mmpretrain::resnet/resnet34_8xb32_in1k.py', '_base_/teacher_resnet34.py']

model = dict(
    _delete_=True,
    type='mmkd_plugin.ParaphraserTrainer',
    teacher=_base_.teacher,
    tap=_base_.teacher_map,
    paraphraser=dict(factor_rate=0.5),
)
param_scheduler = None
train_cfg = dict(max_epochs=3)
