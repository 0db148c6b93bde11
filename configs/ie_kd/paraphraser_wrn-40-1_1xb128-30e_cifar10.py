# Train first: baselines/wrn-40-1_1xb128-160e_cifar10.py
_base_ = ['../_base_/paraphraser_cifar10.py', '../_base_/teachers/wrn-40-1_cifar10.py']

model = dict(teacher=_base_.teacher, tap=_base_.teacher_map)
