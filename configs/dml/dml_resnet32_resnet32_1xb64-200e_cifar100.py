_base_ = '../_base_/dml_cifar100.py'

model = dict(peers=[dict(name=name, model=_base_.resnet32) for name in ('first', 'second')])
