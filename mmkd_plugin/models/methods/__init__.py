"""Methods: from knowledge to losses."""

from mmkd_plugin.models.methods.amtml_kd import AMTMLKD
from mmkd_plugin.models.methods.attention_transfer import AttentionTransfer
from mmkd_plugin.models.methods.base import Method
from mmkd_plugin.models.methods.factor_transfer import FactorTransfer
from mmkd_plugin.models.methods.hint import Hint
from mmkd_plugin.models.methods.ie_kd import IEKD
from mmkd_plugin.models.methods.logit_mimic import LogitMimic
from mmkd_plugin.models.methods.overhaul import Overhaul
from mmkd_plugin.models.methods.soft_target import SoftTarget

__all__ = [
    'AMTMLKD',
    'IEKD',
    'AttentionTransfer',
    'FactorTransfer',
    'Hint',
    'LogitMimic',
    'Method',
    'Overhaul',
    'SoftTarget',
]
