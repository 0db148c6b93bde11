"""Some images of a config's own data set, through its own pipeline."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Subset

from mmkd_plugin.errors import positive_integer

SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Images:
    """Raw batches, as a data loader collates them, and the names of the classes, if the data set has them."""

    batches: Sequence[Any]
    count: int
    classes: Sequence[str] = ()

    def class_name(self, index: int) -> str:
        return self.classes[index] if index < len(self.classes) else str(index)

    def raw(self, most: int) -> list[Tensor]:
        """The first images, (C, H, W) each."""
        return [torch.as_tensor(image) for batch in self.batches for image in batch['inputs']][
            :most
        ]


def sample_images(cfg: Config, split: str, count: int, seed: int = 0) -> Images:
    """Images drawn without replacement; all if there are no more.

    They are drawn and not taken from the front: many data sets are sorted by class.

    Args:
        cfg: With ``<split>_dataloader``.
        split: ``'train'``, ``'val'`` or ``'test'``. Training images come with the augmentations of their pipeline.
        count: How many images.
        seed: Of the draw.

    Raises:
        ValueError: If the config has no such split, or ``count`` is below 1.
    """
    positive_integer('--images', count)
    settings = loader_settings(cfg, split)
    if isinstance(settings.get('batch_sampler'), dict):  # of its own it says how batches are made
        settings.setdefault('batch_size', settings.pop('batch_sampler').get('batch_size', 1))
    settings.pop('num_batch_per_epoch', None)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        dataset = build_dataset(settings['dataset'])
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        chosen = order[:count].sort().values.tolist()
        settings |= dict(
            dataset=Subset(dataset, chosen), sampler=dict(type='DefaultSampler', shuffle=False)
        )
        settings |= dict(drop_last=False, persistent_workers=False)
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
        return Images(
            list(Runner.build_dataloader(settings)), len(chosen), tuple(map(str, classes))
        )


def loader_settings(cfg: Config, split: str, splits: Sequence[str] = SPLITS) -> dict[str, Any]:
    """A copy of ``<split>_dataloader``.

    Raises:
        ValueError: If the config has no such split.
    """
    there = [name for name in splits if cfg.get(f'{name}_dataloader') is not None]
    if split not in there:
        raise ValueError(f'--split: expected one that the config has, {there}, got {split!r}')
    settings: dict[str, Any] = copy.deepcopy(cfg[f'{split}_dataloader'].to_dict())
    return settings


def build_dataset(settings: Any) -> Any:
    """The data set of a loader, read; in the scope of its config."""
    dataset: Any = DATASETS.build(settings)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return dataset
