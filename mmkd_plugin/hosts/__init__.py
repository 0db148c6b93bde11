"""Adapters to the frameworks' models: where class scores are, and how to run one at least cost as a teacher."""

from mmkd_plugin.hosts.base import Host
from mmkd_plugin.hosts.classifier import ClassifierHost
from mmkd_plugin.hosts.dense_detector import DenseDetectorHost
from mmkd_plugin.hosts.detector import DetectorHost
from mmkd_plugin.hosts.find import host_of
from mmkd_plugin.hosts.query_detector import QueryDetectorHost
from mmkd_plugin.hosts.roi_detector import RoIDetectorHost

__all__ = [
    'ClassifierHost',
    'DenseDetectorHost',
    'DetectorHost',
    'Host',
    'QueryDetectorHost',
    'RoIDetectorHost',
    'host_of',
]
