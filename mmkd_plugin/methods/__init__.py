"""Methods: from knowledge to losses."""

from mmkd_plugin.methods.amtml_kd import AMTMLKD
from mmkd_plugin.methods.base import Method
from mmkd_plugin.methods.hint import Hint
from mmkd_plugin.methods.logit_mimic import LogitMimic
from mmkd_plugin.methods.soft_target import SoftTarget

__all__ = ['AMTMLKD', 'Hint', 'LogitMimic', 'Method', 'SoftTarget']
