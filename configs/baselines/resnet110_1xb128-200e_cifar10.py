_base_ = [
    '../_base_/models/cifar_resnet20.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar_200e_warmup.py',
]

model = dict(backbone=dict(depth=110))
