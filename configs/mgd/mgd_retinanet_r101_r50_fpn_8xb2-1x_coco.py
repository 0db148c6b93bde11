# MGD on all levels of the pyramid.
_base_ = '../_base_/pairs/retinanet_r101_r50_coco.py'

model = dict(
    methods=dict(mgd=dict(type='MGD', pairs=_base_.pyramid, mask_ratio=0.65, loss_weight=2e-5))
)
