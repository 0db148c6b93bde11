"""Trainable (or fixed) modules between student and teachers."""

from mmkd_plugin.models.connectors.channel_split import ChannelSplit
from mmkd_plugin.models.connectors.factor_encoder import FactorEncoder
from mmkd_plugin.models.connectors.frozen_paraphraser import FrozenParaphraser
from mmkd_plugin.models.connectors.hint_regressor import HintRegressor
from mmkd_plugin.models.connectors.overhaul_connector import OverhaulConnector
from mmkd_plugin.models.connectors.paraphraser import Paraphraser
from mmkd_plugin.models.connectors.paraphraser_file import LoadedParaphraser, load_paraphraser

__all__ = [
    'ChannelSplit',
    'FactorEncoder',
    'FrozenParaphraser',
    'HintRegressor',
    'LoadedParaphraser',
    'OverhaulConnector',
    'Paraphraser',
    'load_paraphraser',
]
