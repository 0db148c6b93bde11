_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(
    methods=dict(nkd=dict(type='NKD', temperature=1.0, gamma=1.5)),
)
