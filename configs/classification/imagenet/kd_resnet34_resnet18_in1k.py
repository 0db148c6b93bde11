# Baseline: soft targets alone.
_base_ = '_base_/resnet34_resnet18.py'

model = dict(
    methods=dict(kd=dict(type='SoftTarget', temperature=4.0, loss_weight=0.9)), task_weight=0.1
)
