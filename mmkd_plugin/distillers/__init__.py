"""The models that the Runner sees."""

from mmkd_plugin.distillers.distiller import Distiller

__all__ = ['Distiller']
