"""How a framework's model is run and read: adapters, taps, teachers."""

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.build_teachers import build_teacher, build_teachers
from mmkd_plugin.adapters.classifier import ClassifierAdapter
from mmkd_plugin.adapters.dense_detector import DenseDetectorAdapter
from mmkd_plugin.adapters.detector import DetectorAdapter
from mmkd_plugin.adapters.head_output import HeadOutput
from mmkd_plugin.adapters.lookup import get_adapter
from mmkd_plugin.adapters.probe import Probe, TeacherProbe, find_shape
from mmkd_plugin.adapters.query_detector import QueryDetectorAdapter
from mmkd_plugin.adapters.region_heads import register_region_head
from mmkd_plugin.adapters.roi_detector import RoIDetectorAdapter
from mmkd_plugin.adapters.score_readers import register_score_reader
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.teacher import Teacher

__all__ = [
    'Adapter',
    'ClassifierAdapter',
    'DenseDetectorAdapter',
    'DetectorAdapter',
    'HeadOutput',
    'Probe',
    'QueryDetectorAdapter',
    'RoIDetectorAdapter',
    'TappedModel',
    'Teacher',
    'TeacherProbe',
    'build_teacher',
    'build_teachers',
    'find_shape',
    'get_adapter',
    'register_region_head',
    'register_score_reader',
]
