"""Methods: from model outputs to losses."""

from mmkd_plugin.models.methods.amtml_kd import AMTMLKD
from mmkd_plugin.models.methods.angle_transfer import AngleTransfer
from mmkd_plugin.models.methods.attention_transfer import AttentionTransfer
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.bckd import BCKD
from mmkd_plugin.models.methods.connected import ConnectedMethod
from mmkd_plugin.models.methods.crosskd import CrossKD
from mmkd_plugin.models.methods.cwd import CWD
from mmkd_plugin.models.methods.dist import DIST
from mmkd_plugin.models.methods.dkd import DKD
from mmkd_plugin.models.methods.factor_transfer import FactorTransfer
from mmkd_plugin.models.methods.feature_method import FeatureMethod
from mmkd_plugin.models.methods.fgd import FGD
from mmkd_plugin.models.methods.group_hints import GroupHints
from mmkd_plugin.models.methods.hard_target import HardTarget
from mmkd_plugin.models.methods.hint import Hint
from mmkd_plugin.models.methods.ie_kd import IEKD
from mmkd_plugin.models.methods.ld import LD
from mmkd_plugin.models.methods.logit_method import LogitMethod
from mmkd_plugin.models.methods.logit_mimic import LogitMimic
from mmkd_plugin.models.methods.mgd import MGD
from mmkd_plugin.models.methods.nkd import NKD
from mmkd_plugin.models.methods.overhaul import Overhaul
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.models.methods.pkd import PKD
from mmkd_plugin.models.methods.relation_method import RelationMethod
from mmkd_plugin.models.methods.rkd import RKD
from mmkd_plugin.models.methods.soft_target import SoftTarget

__all__ = [
    'AMTMLKD',
    'BCKD',
    'CWD',
    'DIST',
    'DKD',
    'FGD',
    'IEKD',
    'LD',
    'MGD',
    'NKD',
    'PKD',
    'RKD',
    'AngleTransfer',
    'AttentionTransfer',
    'ConnectedMethod',
    'CrossKD',
    'FactorTransfer',
    'FeatureMethod',
    'GroupHints',
    'HardTarget',
    'Hint',
    'LogitMethod',
    'LogitMimic',
    'Method',
    'Overhaul',
    'PairedMethod',
    'RelationMethod',
    'Requests',
    'SoftTarget',
]
