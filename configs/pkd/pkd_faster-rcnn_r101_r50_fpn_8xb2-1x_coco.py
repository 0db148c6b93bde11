# PKD on all levels of the pyramid.
_base_ = '../_base_/pairs/faster-rcnn_r101_r50_coco.py'

model = dict(methods=dict(pkd=dict(type='PKD', pairs=_base_.pyramid, loss_weight=6.0)))
