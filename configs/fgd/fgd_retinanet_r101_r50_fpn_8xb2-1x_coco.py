# FGD on all levels of the pyramid.
_base_ = '../_base_/pairs/retinanet_r101_r50_coco.py'

model = dict(methods=dict(fgd=dict(type='FGD', pairs=_base_.pyramid, attention_weight=5e-4)))
