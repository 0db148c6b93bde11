# The student of AMTML-KD without a teacher.
_base_ = [
    '../_base_/models/cifar_resnet20.py',
    '../_base_/datasets/cifar100_bs128.py',
    '../_base_/schedules/cifar_200e.py',
]

model = dict(head=dict(num_classes=100))
