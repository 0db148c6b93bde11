# MGD on all levels of the pyramid.
_base_ = '../_base_/pairs/faster-rcnn_r101_r50_coco.py'

model = dict(
    methods=dict(mgd=dict(type='MGD', pairs=_base_.pyramid, mask_ratio=0.45, loss_weight=5e-7))
)
