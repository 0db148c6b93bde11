# Train first: ie_kd/paraphraser_resnet34_8xb32-3e_in1k.py
_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(
    methods=dict(ie=dict(type='IEKD', pairs=_base_.pairs, inherit_weight=50.0, explore_weight=50.0))
)
