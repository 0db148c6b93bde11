_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(
    methods=dict(dkd=dict(type='DKD', temperature=1.0, alpha=1.0, beta=0.5)),
)
