# Stage 1: an autoencoder of the last map of a frozen teacher, 30 epochs at one rate.
_base_ = 'cifar10_160e.py'

model = dict(
    _delete_=True, type='mmkd_plugin.ParaphraserTrainer', paraphraser=dict(factor_rate=0.5)
)
param_scheduler = None
train_cfg = dict(max_epochs=30)
