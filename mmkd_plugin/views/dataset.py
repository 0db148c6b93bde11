"""A data set that makes other views of each sample for the teachers that need them."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import DATASETS as ROOT_DATASETS
from torch.utils.data import Dataset

from mmkd_plugin.errors import ConfigError, config_key, construct, mapping
from mmkd_plugin.registry import DATASETS
from mmkd_plugin.views.pipelines import ViewPipelines
from mmkd_plugin.views.settings import View, published_views


@DATASETS.register_module()
class MultiViewDataset(Dataset[Any]):
    """Add other views to each sample, made of the same loaded data with the same draws of geometry.

    Samples are those of the data set inside, to the bit, with one more entry ``views`` by name:
    what each view's pipeline returns. Without views they have none. A data set of any host with a
    ``pipeline`` fits, also inside ``ConcatDataset``, ``RepeatDataset`` and ``ReplayedDataset``.

    Args:
        dataset: Config of any data set of the host, or the data set.
        views: ``dict(name=dict(pipeline=[…]))`` by the name of the teacher. Default: the views that
            the teachers of the run state under ``view``. For the validation set they are written
            here, because its pipeline draws nothing.

    Raises:
        ConfigError: If a pipeline cannot be built, moves the image by other transforms than the
            student's, or meets a wrapper that mixes samples, such as Mosaic's.
    """

    def __init__(self, dataset: Any, views: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._stated: dict[str, View] | None = None
        if views is not None:
            self._stated = {
                name: construct(
                    f'views.{name}', View, mapping(f'views.{name}', one, 'dict(pipeline=[…])')
                )
                for name, one in mapping('views', views, 'dict(name=dict(pipeline=[…]))').items()
            }
            for name, view in self._stated.items():
                if view.pipeline is None:
                    raise ConfigError(f'views.{name}', 'must have a pipeline', found=view.size)
        self.dataset: Any = (
            ROOT_DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        )
        self._ready = False

    def full_init(self) -> None:
        """Read the annotations, and put the views behind the pipeline of the data set."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        if self._ready:
            return
        self._ready = True
        views = published_views() if self._stated is None else self._stated
        if views:
            for leaf in _leaves(self.dataset):
                leaf.pipeline = ViewPipelines(_plain(leaf.pipeline), views)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not self._ready:  # outside of a Runner, which calls full_init
            self.full_init()
        return self.dataset[index]

    @property
    def pipeline(self) -> Any:
        """The student's transforms: hooks of the hosts exchange them."""
        return _plain(self.dataset.pipeline)

    @pipeline.setter
    def pipeline(self, value: Any) -> None:
        self.dataset.pipeline = value
        self._ready = False

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # while a copy is made
            raise AttributeError(name)
        return getattr(self.dataset, name)


def _plain(pipeline: Any) -> Any:
    return pipeline.pipeline if isinstance(pipeline, ViewPipelines) else pipeline


def _leaves(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that load the samples.

    Raises:
        ConfigError: If a wrapper transforms several samples together, or there is no pipeline.
    """
    inner = vars(dataset).get('datasets') or [vars(dataset).get('dataset')]
    if inner != [None]:
        if 'pipeline' in vars(dataset):
            raise ConfigError(
                'dataset',
                'must not mix samples after they are loaded: a view would show others',
                'Give the data set without Mosaic, MixUp and CopyPaste, and without their wrapper.',
                found=type(dataset).__name__,
            )
        for one in inner:
            yield from _leaves(one)
        return
    with config_key('dataset'):
        if not hasattr(_plain(getattr(dataset, 'pipeline', None)), 'transforms'):
            raise ConfigError(
                'pipeline',
                'must be a list of transforms of the host, so that a view can repeat their draws',
                found=type(dataset).__name__,
            )
    yield dataset
