# The same peers in IE-DML, each with both others.
_base_ = 'dml_resnet32_x3_cifar100.py'

pairs = [dict(student='backbone', teacher='backbone', index=index) for index in (0, 1)]
model = dict(methods=dict(_delete_=True, ie=dict(type='IEKD', pairs=pairs)))
