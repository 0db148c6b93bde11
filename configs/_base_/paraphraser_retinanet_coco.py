# Stage 1: an autoencoder of one level of RetinaNet-R101's pyramid, one epoch at one rate. Data and
# batches are MMDet's.
_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'teachers/retinanet_r101_coco.py',
]

model = dict(
    _delete_=True,
    type='mmkd_plugin.ParaphraserTrainer',
    teacher=_base_.teacher,
    paraphraser=dict(factor_rate=0.5),
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = None
train_cfg = dict(max_epochs=1)
