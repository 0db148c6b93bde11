# The specialist of 0, 1, 7, 8 and 9.
_base_ = 'teacher_01234.py'

train_dataloader = dict(dataset=dict(specialty=[0, 1, 7, 8, 9]))
