_base_ = '../_base_/dml_cifar100.py'

model = dict(
    peers=[
        dict(name='resnet32', model=_base_.resnet32),
        dict(name='wrn28_10', model=_base_.wrn_28_10),
    ]
)
