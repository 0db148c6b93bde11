"""Other views of the sample that the student sees: their key, their draws, their data set."""

from mmkd_plugin.views.dataset import MultiViewDataset
from mmkd_plugin.views.settings import View, publish_views

__all__ = ['MultiViewDataset', 'View', 'publish_views']
