# DIST on the sigmoid of each class, in the layout and with the weights of the authors' RetinaNet.
_base_ = '../_base_/pairs/retinanet_r101_r50_coco.py'

model = dict(
    methods=dict(
        dist=dict(
            type='DIST',
            rows='cells',
            locations=dict(weighting='uniform'),
            temperature=1.0,
            loss_weight=1.0,
        )
    ),
)
