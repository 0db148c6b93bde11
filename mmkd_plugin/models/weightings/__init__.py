"""Rules that give each image a weight for each teacher."""

from mmkd_plugin.models.weightings.base import TeacherWeighting
from mmkd_plugin.models.weightings.latent import LatentTeacherWeighting
from mmkd_plugin.models.weightings.record import WeightRecord
from mmkd_plugin.models.weightings.rules import (
    ConfidenceTeacherWeighting,
    EntropyTeacherWeighting,
    RandomTeacherWeighting,
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
]
