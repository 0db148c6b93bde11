_base_ = 'paraphraser_gfl_r18_p3.py'

model = dict(tap='neck[1]')
