_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(
    methods=dict(kd=dict(type='SoftTarget', temperature=4.0, loss_weight=0.9)), task_weight=0.1
)
