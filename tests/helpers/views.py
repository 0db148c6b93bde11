"""Data sets with random augmentations of both hosts, and what a loader makes of them."""

import copy
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.dataset import pseudo_collate, worker_init_fn
from mmengine.registry import DATASETS
from mmpretrain.datasets import BaseDataset
from torch.utils.data import DataLoader

from helpers import coco_files
from helpers.classification import CLASSES, TinyImages
from mmkd_plugin.replay import ReplayedDataset, ReplaySampler


@DATASETS.register_module(force=True)
class NoiseImages(BaseDataset):
    """Noise of 32 pixels in memory, for pipelines of MMPretrain."""

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=tuple('abcd'))

    def __init__(self, length: int = 12, content: int = 0, **kwargs: Any) -> None:
        self.length = length
        self.content = content
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        rng = np.random.default_rng(self.content)
        images = rng.integers(0, 256, (self.length, 32, 32, 3), dtype=np.uint8)
        return [dict(img=one, gt_label=n % CLASSES) for n, one in enumerate(images)]

    def get_cat_ids(self, idx: int) -> list[int]:
        return [int(self.get_data_info(idx)['gt_label'])]


#: Transforms that draw from random, from numpy.random and from torch.
PIPELINE: list[dict[str, Any]] = [
    dict(type='RandomResizedCrop', scale=24),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=9),
    dict(type='RandomErasing', erase_prob=0.7, mode='rand'),
    dict(type='PackInputs'),
]


def noise_images(length: int = 12, **changes: Any) -> dict[str, Any]:
    """Return the config of :class:`NoiseImages` with augmentations of MMPretrain."""
    config = dict(
        type='NoiseImages', length=length, pipeline=copy.deepcopy(PIPELINE), _scope_='mmpretrain'
    )
    return {**config, **changes}


def mosaic(folder: Path, *first: dict[str, Any], names: str = '') -> dict[str, Any]:
    """Return the config of a data set whose images are mixed by Mosaic and MixUp of MMDet.

    Args:
        folder: With the files of :mod:`helpers.coco_files`.
        first: Transforms before them.
        names: A word before the names of both: ``'Cached'``.
    """
    scale = (48, 48)
    inner = coco_files.dataset(folder)
    inner['pipeline'] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
    ]
    return dict(
        type='MultiImageMixDataset',
        _scope_='mmdet',
        dataset=inner,
        pipeline=[
            *first,
            dict(type=f'{names}Mosaic', img_scale=scale, pad_val=114.0),
            dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=(-24, -24)),
            dict(type=f'{names}MixUp', img_scale=scale, ratio_range=(0.8, 1.6), pad_val=114.0),
            dict(type='YOLOXHSVRandomAug'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    )


def loader(dataset: ReplayedDataset, workers: int = 0, batch: int = 4, **extra: Any) -> DataLoader:
    """Return a loader as the Runner builds it, under a seed that depends on the workers."""
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=ReplaySampler(dataset, seed=5),
        num_workers=workers,
        collate_fn=pseudo_collate,
        worker_init_fn=lambda worker: worker_init_fn(worker, workers, 0, 1000 * workers),
        **extra,
    )


def epochs(data: DataLoader, numbers: tuple[int, ...]) -> list[tuple[int, int, bytes, str]]:
    """Return index, view, pixels and labels of each sample of these epochs."""
    found = []
    for epoch in numbers:
        data.sampler.set_epoch(epoch)
        for batch in data:
            for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
                note = sample.replay
                found.append((note['index'], note['view'], image.numpy().tobytes(), label(sample)))
    return found


def label(sample: Any) -> str:
    """Return the labels of a sample of either host as text."""
    if 'gt_label' in sample:
        return str(sample.gt_label.tolist())
    instances = sample.gt_instances
    return str([instances.labels.tolist(), np.asarray(instances.bboxes.tensor).tolist()])


class Remembers(TinyImages):
    """Adds the number of samples drawn before: it keeps state."""

    def __init__(self, length: int = 16) -> None:
        super().__init__(length)
        self.drawn = 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.drawn += 1
        sample = super().__getitem__(index)
        sample['inputs'][0, 0, 0] = self.drawn
        return sample


class OwnGenerator(TinyImages):
    """Draws from a generator of its own."""

    def __init__(self, length: int = 16) -> None:
        super().__init__(length)
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        sample['inputs'][0, 0, 0] = int(self.rng.integers(0, 256))
        return sample


class Draws(TinyImages):
    """Draws from the three generators; with ``fail`` an index raises after it has drawn."""

    def __init__(self, length: int = 16, fail: int = -1) -> None:
        super().__init__(length)
        self.fail = fail

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        sample['inputs'][0, 0, :3] = torch.tensor(
            [random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))]
        )
        if index == self.fail:
            raise OSError('broken image')
        return sample
