# CWD on the class scores of all levels, with the temperature and the weight of MMRazor's config.
_base_ = '../_base_/pairs/gfl_r101_r50_coco.py'

model = dict(methods=dict(cwd=dict(type='CWD', pairs='scores', temperature=1.0, loss_weight=5.0)))
