"""Images of a config's own data set, through its own pipeline."""

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

from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.loading.class_names import class_names

SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Images:
    """Raw batches of some images.

    Args:
        batches: As a data loader collates them.
        count: Number of images.
        classes: Class names, if the data set has any.

    Example:
        >>> images = Images([dict(inputs=[torch.zeros(3, 8, 8)])], 1, ['cat'])
        >>> images.class_name(0), images.class_name(1), images.raw(5)[0].shape
        ('cat', '1', torch.Size([3, 8, 8]))
    """

    batches: Sequence[Any]
    count: int
    classes: Sequence[str] = ()

    def class_name(self, index: int) -> str:
        """Return the name of a class, or its index if it has no name."""
        return self.classes[index] if index < len(self.classes) else str(index)

    def raw(self, most: int) -> list[Tensor]:
        """Return the first images, (C, H, W) each."""
        every = [torch.as_tensor(image) for batch in self.batches for image in batch['inputs']]
        return every[:most]


def sample_images(cfg: Config, split: str, count: int, seed: int = 0) -> Images:
    """Draw images without replacement; all of them if there are no more.

    They are drawn, because many data sets are sorted by class.

    Args:
        cfg: A config with ``<split>_dataloader``.
        split: ``'train'``, ``'val'`` or ``'test'``. Training images have the augmentations of their
            pipeline.
        count: Number of images.
        seed: Seeds the draw.

    Raises:
        ConfigError: If the config has no such split, or ``count`` is below 1.
    """
    positive_integer('--images', count)
    settings = loader_settings(cfg, split)
    if isinstance(settings.get('batch_sampler'), dict):  # it may state the size of a batch
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
        classes = class_names(getattr(dataset, 'metainfo', None)) or ()
        batches = list(Runner.build_dataloader(settings))
        return Images(batches, len(chosen), classes)


def loader_settings(cfg: Config, split: str, splits: Sequence[str] = SPLITS) -> dict[str, Any]:
    """Return a copy of ``<split>_dataloader``.

    Raises:
        ConfigError: If the config has no such split.

    Example:
        >>> loader_settings(Config(dict(val_dataloader=dict(batch_size=2))), 'val')
        {'batch_size': 2}
    """
    present = [name for name in splits if cfg.get(f'{name}_dataloader') is not None]
    if split not in present:
        fix = f'It has {", ".join(present) or "none"}.'
        raise ConfigError(
            '--split', 'must be a split with a dataloader in the config', fix, found=split
        )
    settings: dict[str, Any] = copy.deepcopy(cfg[f'{split}_dataloader'].to_dict())
    return settings


def build_dataset(settings: Any) -> Any:
    """Build and read the data set of a loader, in the default scope of the moment."""
    dataset: Any = DATASETS.build(settings)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    return dataset
