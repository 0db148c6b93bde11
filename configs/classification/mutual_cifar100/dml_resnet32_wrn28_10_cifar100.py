# ResNet-32 and WRN-28-10.
_base_ = '_base_/dml.py'

model = dict(
    peers=[
        dict(name='resnet32', model=_base_.resnet32),
        dict(name='wrn28_10', model=_base_.wrn28_10),
    ]
)
