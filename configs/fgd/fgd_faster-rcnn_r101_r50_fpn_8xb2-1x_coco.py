# FGD on all levels of the pyramid.
_base_ = '../_base_/pairs/faster-rcnn_r101_r50_coco.py'

model = dict(
    methods=dict(
        fgd=dict(
            type='FGD',
            pairs=_base_.pyramid,
            foreground_weight=5e-5,
            background_weight=2.5e-5,
            attention_weight=5e-5,
            relation_weight=5e-7,
        )
    )
)
