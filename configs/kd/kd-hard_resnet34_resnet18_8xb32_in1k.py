# Hard targets: the class that the teacher predicts, with the weight of the label, as in DeiT.
_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(methods=dict(hard=dict(type='HardTarget', loss_weight=0.5)), task_weight=0.5)
