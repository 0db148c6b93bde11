"""The data set whose augmentations are numbered: the same view is the same image."""

import copy
from collections.abc import Mapping
from operator import index as to_index
from typing import Any

from mmengine.logging import MessageHub
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch.utils.data import Dataset

from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.registry import DATASETS
from mmkd_plugin.replay.checksum import checksum_of, mark
from mmkd_plugin.replay.refusals import refuse_dataset, transforms_of
from mmkd_plugin.replay.sampler import ViewIndex
from mmkd_plugin.replay.seeds import seed_of, seeded

#: Entry of MMEngine's message hub, as the Runner publishes ``dataset_meta``.
_PUBLISHED = 'replayed_dataset'


def current_dataset() -> 'ReplayedDataset | None':
    """Return the training data set of the run, None if it is no ReplayedDataset."""
    found = MessageHub.get_current_instance().runtime_info.get(_PUBLISHED)
    return found if isinstance(found, ReplayedDataset) else None


@DATASETS.register_module()
class ReplayedDataset(Dataset[Any]):
    """Draw each view of an image from a seed of its own.

    ``random``, ``numpy.random`` and torch's CPU generator are seeded by (seed, index, view) around
    the data set's ``__getitem__``, and restored after it. Transforms of MMCV, MMPretrain and MMDet
    draw from these three. So a view does not depend on the number of processes and workers, nor on
    the epochs before.

    Each data sample receives the metainfo ``replay=dict(index, view, checksum)``; the checksum is
    that of the image after the transforms. Other attributes are those of the data set inside.

    The index must be a :class:`~mmkd_plugin.replay.sampler.ViewIndex` from a ReplaySampler. A plain
    integer has view 0 where no other is possible (``views=1``) or wanted (``test_mode``); elsewhere
    it is an error, because each epoch would have the same views.

    Args:
        dataset: Config of any data set of the host, or the data set.
        views: Number of different views of each image, V. V = epochs trains on the images that
            a run without limit would see.
        seed: Seed of all views. Runs that share a cache share it.
        checks: Number of samples that are drawn twice before training, in another order the second
            time; 0 draws none. A transform that draws from another generator, or that keeps
            state, is found by this.

    Raises:
        ConfigError: If ``views`` is below 1, the data set is iterable, empty or keeps results of
            earlier samples, or if a sample that is drawn twice differs.
    """

    def __init__(self, dataset: Any, views: int = 50, seed: int = 0, checks: int = 4) -> None:
        self.views = positive_integer('views', views)
        for key, value in (('seed', seed), ('checks', checks)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(key, 'must be an integer >= 0', found=value)
        self.seed = seed
        self.checks = checks
        self.checked = False
        # A copy: frameworks write into what they build from.
        self.config = copy.deepcopy(dataset) if isinstance(dataset, Mapping) else None
        self.dataset: Any = (
            ROOT_DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        )
        refuse_dataset(self.dataset)

    def full_init(self) -> None:
        """Read the annotations, and draw the samples of the check."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        if len(self.dataset) < 1:
            raise ConfigError('dataset', 'must hold an image', found=type(self.dataset).__name__)
        if not self.checked:
            self.checked = True
            refuse_dataset(self.dataset)
            self._draw_twice()
        if not getattr(self.dataset, 'test_mode', False):
            hub = MessageHub.get_current_instance()
            hub.update_info(_PUBLISHED, self, resumed=False)  # not saved in checkpoints

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not self.checked:  # outside of a Runner, which calls full_init
            self.full_init()
        if not isinstance(index, ViewIndex):
            index = self._first_view(index)
        elif not 0 <= index.view < self.views:
            raise IndexError(f'view {index.view} of {self.views}')
        image, view = int(index), index.view
        with seeded(seed_of(self.seed, image, view)):
            sample = self.dataset[image]
        mark(sample, image, view)
        return sample

    def get_data_info(self, index: int) -> Any:
        """Return the annotations of an image, whichever its view."""
        return self.dataset.get_data_info(int(index))

    @property
    def metainfo(self) -> Any:
        """The metainfo of the data set inside."""
        return self.dataset.metainfo

    @property
    def pipeline(self) -> Any:
        """The transforms of the data set inside: hooks of the hosts exchange them."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, value: Any) -> None:
        self.dataset.pipeline = value
        refuse_dataset(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # while a copy is made
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _first_view(self, index: int) -> ViewIndex:
        if self.views > 1 and not getattr(self.dataset, 'test_mode', False):
            raise ConfigError(
                'train_dataloader.sampler',
                'must be a ReplaySampler, with no wrapper between it and the ReplayedDataset: '
                'the index has no view',
                "Write sampler=dict(type='mmkd_plugin.ReplaySampler', shuffle=True), and put other "
                'wrappers of the data set inside the ReplayedDataset.',
                found=index,
            )
        plain = to_index(index)
        return ViewIndex(plain + len(self) if plain < 0 else plain, view=0)

    def _draw_twice(self) -> None:
        """Compare samples that are drawn twice, with others between.

        Raises:
            ConfigError: If the images of a sample differ.
        """
        step = max(len(self) // max(self.checks, 1), 1)
        drawn = [
            ViewIndex(number * step % len(self), number % self.views)
            for number in range(self.checks)
        ]
        first = [checksum_of(self[index]['inputs']) for index in drawn]
        again = [checksum_of(self[index]['inputs']) for index in reversed(drawn)]
        for index, one, other in zip(drawn, first, reversed(again), strict=True):
            if one != other:
                raise ConfigError(
                    'dataset.pipeline',
                    f'cannot be replayed: view {index.view} of image {int(index)} was drawn twice '
                    'and differs',
                    'A transform keeps state, or draws from a generator that is none of random, '
                    "numpy.random and torch's; leave it out.",
                    found=', '.join(dict.fromkeys(_names(self.dataset))),
                )


def _names(dataset: Any) -> list[str]:
    names = [type(part).__name__ for part in transforms_of(dataset)]
    return [name for name in names if name != 'Compose']
