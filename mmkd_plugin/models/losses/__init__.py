"""Losses, one equation a file: pure functions of tensors, some of them usable from a config."""

from mmkd_plugin.models.losses.angle import angle_loss
from mmkd_plugin.models.losses.attention_transfer import attention_transfer_loss
from mmkd_plugin.models.losses.cka import cka_loss, linear_cka
from mmkd_plugin.models.losses.cwd import cwd_loss
from mmkd_plugin.models.losses.dense_heads import (
    binary_quality_loss,
    giou_loss,
    localization_loss,
)
from mmkd_plugin.models.losses.dist import dist_loss
from mmkd_plugin.models.losses.distance import distance_loss, relation_distance_loss
from mmkd_plugin.models.losses.dkd import dkd_loss
from mmkd_plugin.models.losses.exploration import exploration_loss
from mmkd_plugin.models.losses.factor_distance import factor_cosine, factor_distance
from mmkd_plugin.models.losses.hard_target import hard_target_loss
from mmkd_plugin.models.losses.hint import hint_loss
from mmkd_plugin.models.losses.logit_mimic import logit_mimic_loss
from mmkd_plugin.models.losses.loss_module import FeatureLoss, RelationLoss, loss_module
from mmkd_plugin.models.losses.mgd import mgd_loss
from mmkd_plugin.models.losses.nkd import nkd_loss
from mmkd_plugin.models.losses.overhaul import overhaul_loss, overhaul_margin
from mmkd_plugin.models.losses.pkd import pkd_loss
from mmkd_plugin.models.losses.presence import presence_loss
from mmkd_plugin.models.losses.reconstruction import reconstruction_loss, relative_error
from mmkd_plugin.models.losses.soft_target import (
    binary_soft_target_kl,
    soft_target_kl,
    soft_target_loss,
)
from mmkd_plugin.models.losses.standardize import standardize_logits

__all__ = [
    'FeatureLoss',
    'RelationLoss',
    'angle_loss',
    'attention_transfer_loss',
    'binary_quality_loss',
    'binary_soft_target_kl',
    'cka_loss',
    'cwd_loss',
    'dist_loss',
    'distance_loss',
    'dkd_loss',
    'exploration_loss',
    'factor_cosine',
    'factor_distance',
    'giou_loss',
    'hard_target_loss',
    'hint_loss',
    'linear_cka',
    'localization_loss',
    'logit_mimic_loss',
    'loss_module',
    'mgd_loss',
    'nkd_loss',
    'overhaul_loss',
    'overhaul_margin',
    'pkd_loss',
    'presence_loss',
    'reconstruction_loss',
    'relation_distance_loss',
    'relative_error',
    'soft_target_kl',
    'soft_target_loss',
    'standardize_logits',
]
