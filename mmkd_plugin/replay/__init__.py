"""Numbered views of augmented images, and a store of what teachers output for them."""

from mmkd_plugin.replay.checksum import replayed_rows
from mmkd_plugin.replay.dataset import ReplayedDataset
from mmkd_plugin.replay.dense import suggested_locations
from mmkd_plugin.replay.describe import describe, described
from mmkd_plugin.replay.manifest import manifest_of, read_manifest
from mmkd_plugin.replay.refusals import refuse_batch_augments, refuse_shared, refuse_switches
from mmkd_plugin.replay.rows import RowFormat
from mmkd_plugin.replay.sampler import ReplaySampler, ViewIndex
from mmkd_plugin.replay.store import ReplayStore
from mmkd_plugin.replay.truncation import Truncation

__all__ = [
    'ReplaySampler',
    'ReplayStore',
    'ReplayedDataset',
    'RowFormat',
    'Truncation',
    'ViewIndex',
    'describe',
    'described',
    'manifest_of',
    'read_manifest',
    'refuse_batch_augments',
    'refuse_shared',
    'refuse_switches',
    'replayed_rows',
    'suggested_locations',
]
