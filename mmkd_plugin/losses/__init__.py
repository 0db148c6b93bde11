"""Losses: one equation a file, a pure function of tensors and a registered module around it."""

from mmkd_plugin.losses.angle import AngleLoss, angle_loss
from mmkd_plugin.losses.distance import DistanceLoss, distance_loss
from mmkd_plugin.losses.hint import HintLoss, hint_loss
from mmkd_plugin.losses.logit_mimic import LogitMimicLoss, logit_mimic_loss
from mmkd_plugin.losses.soft_target import SoftTargetKL, soft_target_kl

__all__ = [
    'AngleLoss',
    'DistanceLoss',
    'HintLoss',
    'LogitMimicLoss',
    'SoftTargetKL',
    'angle_loss',
    'distance_loss',
    'hint_loss',
    'logit_mimic_loss',
    'soft_target_kl',
]
