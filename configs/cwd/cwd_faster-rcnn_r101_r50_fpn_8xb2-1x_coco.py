# CWD on all levels of the pyramid, P6 too, as in MMRazor's config.
_base_ = '../_base_/pairs/faster-rcnn_r101_r50_coco.py'

model = dict(
    methods=dict(
        cwd=dict(
            type='CWD',
            pairs=[*_base_.pyramid, dict(student='neck[4]', teacher='neck[4]')],
            temperature=1.0,
            loss_weight=10.0,
        )
    )
)
