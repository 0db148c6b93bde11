"""Imported by a config with SSD (``custom_imports``): lets MMDet 3.3's ``SSDHead`` predict.

Its prediction reads the attribute ``loss_cls`` of the head, which this one head lacks. A head
that has the attribute is not changed.
"""

from mmdet.models.dense_heads import SSDHead

if not hasattr(SSDHead, 'loss_cls'):
    SSDHead.loss_cls = None
