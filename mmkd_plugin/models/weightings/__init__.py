"""Rules that weigh the teachers for each image."""

from mmkd_plugin.models.weightings.build import build_weighting
from mmkd_plugin.models.weightings.record import WeightRecord
from mmkd_plugin.models.weightings.rules import (
    ConfidenceTeacherWeighting,
    EntropyTeacherWeighting,
    LatentTeacherWeighting,
    RandomTeacherWeighting,
    TeacherWeighting,
    UniformTeacherWeighting,
)

__all__ = [
    'ConfidenceTeacherWeighting',
    'EntropyTeacherWeighting',
    'LatentTeacherWeighting',
    'RandomTeacherWeighting',
    'TeacherWeighting',
    'UniformTeacherWeighting',
    'WeightRecord',
    'build_weighting',
]
