# ResNet-x4 without its depth, CIFAR-100, and the schedule of Tian et al. (CRD), which most later
# papers share: SGD, 64 images a step, 240 epochs, the rate 0.05 divided by 10 after 150, 180 and
# 210.
_base_ = [
    'models/cifar_classifier.py',
    'datasets/cifar100_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmkd_plugin.CifarResNet', base_channels=64, stem_channels=32, shortcut='conv'
    ),
    head=dict(num_classes=100, in_channels=256),
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.05, weight_decay=5e-4))
param_scheduler = dict(milestones=[150, 180, 210])
train_cfg = dict(max_epochs=240)
# The last epoch counts, not the best on the test set.
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
