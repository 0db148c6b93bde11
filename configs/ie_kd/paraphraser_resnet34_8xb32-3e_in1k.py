# Stage 1 of IE-KD and of factor transfer: 15,000 steps, a little more than the 30 epochs on
# CIFAR-10.
_base_ = [
    'mmpretrain::resnet/resnet34_8xb32_in1k.py',
    '../_base_/teachers/resnet34_in1k.py',
]

model = dict(
    _delete_=True,
    type='mmkd_plugin.ParaphraserTrainer',
    teacher=_base_.teacher,
    tap=_base_.teacher_map,
    paraphraser=dict(factor_rate=0.5),
)
param_scheduler = None
train_cfg = dict(max_epochs=3)
