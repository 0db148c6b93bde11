# After wrn46_4_160e_cifar10.py.
_base_ = ['_base_/paraphraser.py', '_base_/teacher_wrn46_4.py']

model = dict(teacher=_base_.teacher, tap=_base_.teacher_map)
