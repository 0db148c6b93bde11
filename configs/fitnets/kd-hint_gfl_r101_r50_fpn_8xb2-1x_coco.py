# Soft targets, at the locations that the teacher's scores weight, and hints on three levels of the
# pyramid. The weights are not tuned.
_base_ = '../_base_/pairs/gfl_r101_r50_coco.py'

model = dict(
    methods=dict(
        kd=dict(type='SoftTarget', temperature=1.0),
        hint=dict(type='Hint', pairs=_base_.pyramid[:3]),
    )
)
