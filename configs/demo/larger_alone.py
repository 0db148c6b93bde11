# ResNet-8 with 77,754 parameters, trained on labels alone: the baseline of ie_kd_larger.py.
_base_ = 'student_alone.py'

model = dict(backbone=dict(base_channels=16), head=dict(in_channels=64))
