# The counterpart of MMDet's ld_r50-gflv1-r101_fpn_1x_coco.py: the same loss for the same weights.
_base_ = '../_base_/pairs/gfl_r101_r50_coco.py'

model = dict(methods=dict(ld=dict(type='LD', temperature=10.0, loss_weight=0.25)))
