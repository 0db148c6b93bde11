# AMTML-KD whose teacher weights learn from the labels: cross-entropy of the mixed teachers, apart from the student.
_base_ = 'amtml_resnet20_cifar10.py'

model = dict(methods=dict(amtml=dict(objective='label')))
