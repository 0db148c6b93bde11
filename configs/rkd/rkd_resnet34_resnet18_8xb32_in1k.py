_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(
    methods=dict(rkd=dict(type='RKD', distance_weight=25.0, angle_weight=50.0, tap='neck')),
)
