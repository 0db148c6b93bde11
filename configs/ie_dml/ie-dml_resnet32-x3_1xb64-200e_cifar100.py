# Each of the three peers has one pair with each of the two others.
_base_ = '../dml/dml_resnet32-x3_1xb64-200e_cifar100.py'

pairs = [dict(student='backbone', teacher='backbone', index=index) for index in (0, 1)]
model = dict(methods=dict(_delete_=True, ie=dict(type='IEKD', pairs=pairs)))
