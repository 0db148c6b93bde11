_base_ = '../_base_/paraphraser_retinanet_coco.py'

model = dict(tap='neck[0]')
