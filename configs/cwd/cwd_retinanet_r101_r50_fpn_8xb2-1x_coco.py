# CWD on all levels of the pyramid.
_base_ = '../_base_/pairs/retinanet_r101_r50_coco.py'

model = dict(
    methods=dict(cwd=dict(type='CWD', pairs=_base_.pyramid, temperature=1.0, loss_weight=10.0))
)
