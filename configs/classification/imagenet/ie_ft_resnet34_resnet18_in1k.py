# IE-KD on factors. After paraphraser_resnet34_in1k.py.
_base_ = '_base_/resnet34_resnet18.py'

model = dict(
    methods=dict(ie=dict(type='IEKD', pairs=_base_.pairs, inherit_weight=50.0, explore_weight=50.0))
)
