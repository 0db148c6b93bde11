# The teachers' weights are learned from labels: cross-entropy of the mixed teachers' probabilities.
_base_ = 'amtml-kd_resnet32-56-110_resnet20_1xb128-200e_cifar100.py'

model = dict(methods=dict(amtml=dict(objective='label')))
