# ResNet-32 and MobileNet.
_base_ = '_base_/dml.py'

model = dict(
    peers=[
        dict(name='resnet32', model=_base_.resnet32),
        dict(name='mobilenet', model=_base_.mobilenet),
    ]
)
