# The second teacher of AMTML-KD: deeper than teacher_gfl_r18.py, and less wide.
_base_ = 'teacher_gfl_r18.py'

model = dict(
    backbone=dict(depth=34, base_channels=24),
    neck=dict(in_channels=[24, 48, 96, 192]),
)
