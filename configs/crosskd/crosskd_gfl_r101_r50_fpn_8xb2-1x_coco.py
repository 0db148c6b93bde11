# The student's head features continue through the teacher's head; the authors' weights for GFL.
_base_ = '../_base_/pairs/gfl_r101_r50_coco.py'

model = dict(methods=dict(crosskd=dict(type='CrossKD', score_weight=1.0, box_weight=4.0)))
