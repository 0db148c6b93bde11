# Baseline: factor transfer. After paraphraser_resnet34_in1k.py.
_base_ = '_base_/resnet34_resnet18.py'

model = dict(methods=dict(ft=dict(type='FactorTransfer', pairs=_base_.pairs, loss_weight=500.0)))
