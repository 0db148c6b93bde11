# Class scores and boxes at all locations, divided by the number of positives as the authors do.
_base_ = '../_base_/pairs/gfl_r101_r50_coco.py'

model = dict(
    methods=dict(bckd=dict(type='BCKD', score_weight=1.0, box_weight=4.0, normalize='positives'))
)
