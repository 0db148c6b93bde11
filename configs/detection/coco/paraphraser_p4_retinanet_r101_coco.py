_base_ = '_base_/paraphraser_retinanet_r101.py'

model = dict(tap='neck[1]')
