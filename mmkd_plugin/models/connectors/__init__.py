"""Modules between the features of the student and those of the teachers."""

from mmkd_plugin.models.connectors.channel_split import ChannelSplit
from mmkd_plugin.models.connectors.factor_encoder import FactorEncoder
from mmkd_plugin.models.connectors.frozen_paraphraser import FrozenParaphraser
from mmkd_plugin.models.connectors.paraphraser import Paraphraser
from mmkd_plugin.models.connectors.regressors import HintRegressor, OverhaulConnector

__all__ = [
    'ChannelSplit',
    'FactorEncoder',
    'FrozenParaphraser',
    'HintRegressor',
    'OverhaulConnector',
    'Paraphraser',
]
