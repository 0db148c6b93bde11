"""Imported by a config with SSD (``custom_imports``): lets MMDet 3.3's ``SSDHead`` predict.

Its prediction asks the head for ``loss_cls``, which this one head does not have. Nothing is changed where it has it.
"""

from mmdet.models.dense_heads import SSDHead

if not hasattr(SSDHead, 'loss_cls'):
    SSDHead.loss_cls = None
