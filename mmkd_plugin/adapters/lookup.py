"""Choice of the adapter for a model."""

import sys

from torch import nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.classifier import ClassifierAdapter, RetrieverAdapter
from mmkd_plugin.adapters.dense_detector import DenseDetectorAdapter
from mmkd_plugin.adapters.detector import DetectorAdapter, SeveralDetectorsAdapter
from mmkd_plugin.adapters.query_detector import QueryDetectorAdapter
from mmkd_plugin.adapters.roi_detector import RoIDetectorAdapter


def get_adapter(model: nn.Module) -> Adapter:
    """Return the adapter that knows ``model``, or else a plain :class:`Adapter`.

    No framework is imported: an instance of its class exists only after its import.
    """
    classifiers = sys.modules.get('mmpretrain.models.classifiers')
    if classifiers is not None and isinstance(model, classifiers.BaseClassifier):
        return ClassifierAdapter(model)
    retrievers = sys.modules.get('mmpretrain.models.retrievers')
    if retrievers is not None and isinstance(model, retrievers.ImageToImageRetriever):
        return RetrieverAdapter(model)
    detectors = sys.modules.get('mmdet.models.detectors')
    if detectors is None:
        return Adapter()
    base = detectors.BaseDetector
    inner = [name for name, child in model.named_children() if isinstance(child, base)]
    if inner:
        return SeveralDetectorsAdapter(model, inner)
    if isinstance(model, base):
        if isinstance(model, detectors.DetectionTransformer):
            return QueryDetectorAdapter(model)
        if isinstance(model, detectors.TwoStageDetector):
            return RoIDetectorAdapter(model)
        one_stage = isinstance(model, detectors.SingleStageDetector)
        if one_stage or hasattr(model, 'bbox_head') or hasattr(model, 'mask_head'):
            return DenseDetectorAdapter(model)
        if hasattr(model, 'backbone'):
            return DetectorAdapter()
    return Adapter()
