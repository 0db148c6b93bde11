# Three ResNet-32.
_base_ = '_base_/dml.py'

model = dict(
    peers=[dict(name=name, model=_base_.resnet32) for name in ('first', 'second', 'third')]
)
