# The student alone: what every teacher must improve on.
_base_ = ['../../_base_/cifar_resnet20.py', 'mmpretrain::_base_/datasets/cifar100_bs16.py']

model = dict(head=dict(num_classes=100))
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=256)
test_dataloader = dict(batch_size=256)
