"""Distillers: the models that the Runner trains."""

from mmkd_plugin.models.distillers.distiller import Distiller
from mmkd_plugin.models.distillers.mutual_distiller import MutualDistiller
from mmkd_plugin.models.distillers.paraphraser_trainer import ParaphraserTrainer

__all__ = [
    'Distiller',
    'MutualDistiller',
    'ParaphraserTrainer',
]
