# The student alone.
_base_ = '_base_/ssd300_resnet18.py'
