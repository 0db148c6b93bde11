# After wrn16_2_160e_cifar10.py.
_base_ = ['_base_/paraphraser.py', '_base_/teacher_wrn16_2.py']

model = dict(teacher=_base_.teacher, tap=_base_.teacher_map)
