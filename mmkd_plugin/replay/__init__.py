"""Numbered views of augmented images, and a store of what teachers output for them."""

from mmkd_plugin.replay.dataset import ReplayedDataset
from mmkd_plugin.replay.sampler import ReplaySampler, ViewIndex

__all__ = ['ReplaySampler', 'ReplayedDataset', 'ViewIndex']
