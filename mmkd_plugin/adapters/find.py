"""Which host a model has."""

import sys

from torch import nn

from mmkd_plugin.adapters.base import Host
from mmkd_plugin.adapters.classifier import ClassifierHost
from mmkd_plugin.adapters.dense_detector import DenseDetectorHost
from mmkd_plugin.adapters.detector import DetectorHost
from mmkd_plugin.adapters.query_detector import QueryDetectorHost
from mmkd_plugin.adapters.roi_detector import RoIDetectorHost


def host_of(model: nn.Module) -> Host:
    """The host that knows ``model``; the plain :class:`Host`, which knows taps alone, if none does.

    A host package is never imported for the question: an instance of its class can only exist once it has been.
    """
    classifiers = sys.modules.get('mmpretrain.models.classifiers')
    if classifiers is not None and isinstance(model, classifiers.BaseClassifier):
        return ClassifierHost(model)
    detectors = sys.modules.get('mmdet.models.detectors')
    if detectors is not None and isinstance(model, detectors.BaseDetector):
        if isinstance(model, detectors.DetectionTransformer):
            return QueryDetectorHost(model)
        if isinstance(model, detectors.SingleStageDetector):
            return DenseDetectorHost(model)
        if isinstance(model, detectors.TwoStageDetector):
            return RoIDetectorHost(model)
        if hasattr(model, 'backbone'):
            return DetectorHost()
    return Host()
