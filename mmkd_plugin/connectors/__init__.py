"""Trainable (or fixed) modules between student and teachers."""

from mmkd_plugin.connectors.build_weighting import build_weighting
from mmkd_plugin.connectors.channel_split import ChannelSplit
from mmkd_plugin.connectors.factor_encoder import FactorEncoder
from mmkd_plugin.connectors.frozen_paraphraser import FrozenParaphraser
from mmkd_plugin.connectors.hint_regressor import HintRegressor
from mmkd_plugin.connectors.overhaul_connector import OverhaulConnector
from mmkd_plugin.connectors.paraphraser import Paraphraser
from mmkd_plugin.connectors.paraphraser_file import LoadedParaphraser, load_paraphraser
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
    'ChannelSplit',
    'ConfidenceTeacherWeighting',
    'EntropyTeacherWeighting',
    'FactorEncoder',
    'FrozenParaphraser',
    'HintRegressor',
    'LatentTeacherWeighting',
    'LoadedParaphraser',
    'OverhaulConnector',
    'Paraphraser',
    'RandomTeacherWeighting',
    'TeacherWeighting',
    'UniformTeacherWeighting',
    'WeightRecord',
    'build_weighting',
    'load_paraphraser',
]
