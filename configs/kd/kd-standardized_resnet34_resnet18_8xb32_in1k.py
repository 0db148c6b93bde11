_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(
    methods=dict(kd=dict(type='SoftTarget', temperature=2.0, loss_weight=9.0, standardize=True)),
    task_weight=0.1,
)
