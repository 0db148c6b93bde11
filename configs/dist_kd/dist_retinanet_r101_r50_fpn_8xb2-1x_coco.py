# DIST on the sigmoid of each class, at the locations where the teacher is confident.
_base_ = '../_base_/pairs/retinanet_r101_r50_coco.py'

model = dict(
    methods=dict(dist=dict(type='DIST', temperature=1.0, loss_weight=1.0)),
)
