# Train first: ie_kd/paraphraser_resnet34_8xb32-3e_in1k.py
_base_ = '../_base_/pairs/resnet34_resnet18_in1k.py'

model = dict(methods=dict(ft=dict(type='FactorTransfer', pairs=_base_.pairs, loss_weight=500.0)))
