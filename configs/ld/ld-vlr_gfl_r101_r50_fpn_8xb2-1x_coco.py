# Positives and the valuable region with the weights of the authors, without their class losses.
_base_ = '../_base_/pairs/gfl_r101_r50_coco.py'

model = dict(
    methods=dict(
        ld=dict(type='LD', temperature=10.0, loss_weight=0.25, vlr_weight=0.25, gamma=0.25)
    )
)
