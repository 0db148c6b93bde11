# ResNet-8 with 77,754 parameters, taught by labels alone: what the student larger than its teacher is compared with.
_base_ = 'student_alone.py'

model = dict(backbone=dict(base_channels=16), head=dict(in_channels=64))
