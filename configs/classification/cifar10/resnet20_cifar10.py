# The student alone: what every teacher must improve on.
_base_ = ['../../_base_/cifar_resnet20.py', 'mmpretrain::_base_/datasets/cifar10_bs16.py']

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)
