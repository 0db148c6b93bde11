# The same peers in IE-DML: half of each one's last map inherits the other's factor, half explores what it lacks.
_base_ = 'dml_resnet32_resnet32_cifar100.py'

model = dict(
    methods=dict(
        _delete_=True, ie=dict(type='IEKD', pairs=[dict(student='backbone', teacher='backbone')])
    )
)
