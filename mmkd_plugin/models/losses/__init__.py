"""Losses: one equation a file, a pure function of tensors and a registered module around it."""

from mmkd_plugin.models.losses.angle import AngleLoss, angle_loss
from mmkd_plugin.models.losses.attention_transfer import (
    AttentionTransferLoss,
    attention_transfer_loss,
)
from mmkd_plugin.models.losses.binary_soft_target import BinarySoftTargetKL, binary_soft_target_kl
from mmkd_plugin.models.losses.cka import LinearCKA, linear_cka
from mmkd_plugin.models.losses.distance import DistanceLoss, distance_loss
from mmkd_plugin.models.losses.exploration import ExplorationLoss, exploration_loss
from mmkd_plugin.models.losses.factor_distance import FactorDistance, factor_cosine, factor_distance
from mmkd_plugin.models.losses.factor_transfer import FactorTransferLoss, factor_transfer_loss
from mmkd_plugin.models.losses.hint import HintLoss, hint_loss
from mmkd_plugin.models.losses.inheritance import InheritanceLoss, inheritance_loss
from mmkd_plugin.models.losses.logit_mimic import LogitMimicLoss, logit_mimic_loss
from mmkd_plugin.models.losses.overhaul import OverhaulLoss, overhaul_loss, overhaul_margin
from mmkd_plugin.models.losses.presence import PresenceLoss, presence_loss
from mmkd_plugin.models.losses.reconstruction import (
    ReconstructionLoss,
    reconstruction_loss,
    relative_error,
)
from mmkd_plugin.models.losses.soft_target import SoftTargetKL, soft_target_kl

__all__ = [
    'AngleLoss',
    'AttentionTransferLoss',
    'BinarySoftTargetKL',
    'DistanceLoss',
    'ExplorationLoss',
    'FactorDistance',
    'FactorTransferLoss',
    'HintLoss',
    'InheritanceLoss',
    'LinearCKA',
    'LogitMimicLoss',
    'OverhaulLoss',
    'PresenceLoss',
    'ReconstructionLoss',
    'SoftTargetKL',
    'angle_loss',
    'attention_transfer_loss',
    'binary_soft_target_kl',
    'distance_loss',
    'exploration_loss',
    'factor_cosine',
    'factor_distance',
    'factor_transfer_loss',
    'hint_loss',
    'inheritance_loss',
    'linear_cka',
    'logit_mimic_loss',
    'overhaul_loss',
    'overhaul_margin',
    'presence_loss',
    'reconstruction_loss',
    'relative_error',
    'soft_target_kl',
]
