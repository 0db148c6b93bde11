_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(
    methods=dict(dist=dict(type='DIST', temperature=1.0, loss_weight=2.0)),
)
