# The specialist of 3, 4, 5, 6 and 7.
_base_ = 'teacher_01234.py'

train_dataloader = dict(dataset=dict(specialty=[3, 4, 5, 6, 7]))
