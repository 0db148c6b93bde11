"""The sampler that yields images with the number of a view."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.registry import DATA_SAMPLERS


class ViewIndex(int):
    """The index of an image that also has the number of a view.

    It is an integer, so that batch samplers which read the data set by it still work. Arithmetic
    gives plain integers.

    Args:
        index: Index of the image.
        view: Number of the view.

    Example:
        >>> index = ViewIndex(5, view=2)
        >>> index, index.view, index == 5
        (ViewIndex(5, view=2), 2, True)
    """

    view: int

    def __new__(cls, index: int, view: int) -> 'ViewIndex':
        self = super().__new__(cls, index)
        self.view = view
        return self

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.view  # for the queues of workers

    def __repr__(self) -> str:
        return f'{type(self).__name__}({int(self)}, view={self.view})'


@DATA_SAMPLERS.register_module()
class ReplaySampler(Sampler[ViewIndex]):
    r"""Yield every image once an epoch, in view :math:`e \bmod V` in epoch :math:`e`.

    The order depends on the seed and the epoch alone. So it is the same for any number of processes
    and workers, and after a resume. Process r of R receives each R-th image, from the r-th on.

    Args:
        dataset: A :class:`~mmkd_plugin.replay.dataset.ReplayedDataset`, which states the views.
        shuffle: Whether each epoch has an order of its own.
        seed: Seed of the order. The Runner gives its own here. None takes that of the data set.
            Runs of several seeds can share one set of views. To resume exactly, set it here or in
            ``randomness=dict(seed=…)``; otherwise the Runner draws a new one at each start.
        round_up: Whether the first images of an epoch are repeated at its end, until all processes
            have equally many.
        infinite: Whether one epoch follows the other without end, as in MMEngine's
            ``InfiniteSampler``. For iteration-based runs, which then need not restart the workers.
            Nothing is rounded up.

    Raises:
        ConfigError: If the data set states no views.
    """

    def __init__(
        self,
        dataset: Any,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        infinite: bool = False,
    ) -> None:
        views = getattr(dataset, 'views', None)
        if not isinstance(views, int):
            raise ConfigError(
                'train_dataloader.dataset',
                'must be a ReplayedDataset where the sampler is a ReplaySampler',
                "Write dataset=dict(type='mmkd_plugin.ReplayedDataset', views=50, dataset=…).",
                found=type(dataset).__name__,
            )
        self.dataset = dataset
        self.views = views
        self.shuffle = shuffle
        self.seed = dataset.seed if seed is None else seed
        self.round_up = round_up
        self.infinite = infinite
        self.epoch = 0
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[ViewIndex]:
        if self.infinite:
            stream = itertools.chain.from_iterable(map(self._epoch, itertools.count()))
            return itertools.islice(stream, self.rank, None, self.world_size)
        length = len(self.dataset)
        total = math.ceil(length / self.world_size) * self.world_size if self.round_up else length
        epoch = self._epoch(self.epoch)
        repeated = itertools.cycle(epoch) if total > length else epoch
        return itertools.islice(repeated, self.rank, total, self.world_size)

    def _epoch(self, epoch: int) -> Iterator[ViewIndex]:
        """Return the images of an epoch, of all processes."""
        indices = torch.arange(len(self.dataset))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            indices = torch.randperm(len(self.dataset), generator=generator)
        view = epoch % self.views
        return (ViewIndex(index, view) for index in indices.tolist())

    def __len__(self) -> int:
        """Return the number of images of this process in an epoch; of all, if infinite."""
        if self.infinite:
            return len(self.dataset)
        missing = 0 if self.round_up else self.rank
        return math.ceil((len(self.dataset) - missing) / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration yields. An infinite stream begins with epoch 0."""
        self.epoch = epoch
