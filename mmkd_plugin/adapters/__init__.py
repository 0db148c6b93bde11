"""Adapters to the frameworks' models: where class scores are, and how to run one at least cost as a teacher."""

from mmkd_plugin.adapters.base import Host
from mmkd_plugin.adapters.classifier import ClassifierHost
from mmkd_plugin.adapters.dense_detector import DenseDetectorHost
from mmkd_plugin.adapters.detector import DetectorHost
from mmkd_plugin.adapters.find import host_of
from mmkd_plugin.adapters.query_detector import QueryDetectorHost
from mmkd_plugin.adapters.roi_detector import RoIDetectorHost

__all__ = [
    'ClassifierHost',
    'DenseDetectorHost',
    'DetectorHost',
    'Host',
    'QueryDetectorHost',
    'RoIDetectorHost',
    'host_of',
]
