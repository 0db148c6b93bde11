"""The models that the Runner sees."""

from mmkd_plugin.distillers.distiller import Distiller
from mmkd_plugin.distillers.paraphraser_trainer import ParaphraserTrainer

__all__ = ['Distiller', 'ParaphraserTrainer']
