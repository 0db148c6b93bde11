# Train first: baselines/wrn-46-4_1xb128-160e_cifar10.py
_base_ = ['../_base_/paraphraser_cifar10.py', '../_base_/teachers/wrn-46-4_cifar10.py']

model = dict(teacher=_base_.teacher, tap=_base_.teacher_map)
