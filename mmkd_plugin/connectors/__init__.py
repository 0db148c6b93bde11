"""Trainable (or fixed) modules between student and teachers."""

from mmkd_plugin.connectors.build_weighting import build_weighting
from mmkd_plugin.connectors.hint_regressor import HintRegressor
from mmkd_plugin.connectors.teacher_weighting import (
    ConfidenceTeacherWeighting,
    EntropyTeacherWeighting,
    LatentTeacherWeighting,
    RandomTeacherWeighting,
    TeacherWeighting,
    UniformTeacherWeighting,
)
from mmkd_plugin.connectors.weight_record import WeightRecord

__all__ = [
    'ConfidenceTeacherWeighting',
    'EntropyTeacherWeighting',
    'HintRegressor',
    'LatentTeacherWeighting',
    'RandomTeacherWeighting',
    'TeacherWeighting',
    'UniformTeacherWeighting',
    'WeightRecord',
    'build_weighting',
]
