"""Parts of a run that cannot be replayed are named before the first step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmpretrain.datasets.transforms  # noqa: F401
import pytest
from helpers import coco_files, views
from helpers.classification import TinyImages
from helpers.errors import raises_config_error
from mmdet.engine.hooks import PipelineSwitchHook, YOLOXModeSwitchHook
from mmdet.registry import TRANSFORMS
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS as ROOT_MODELS
from torch.utils.data import IterableDataset

from mmkd_plugin.replay import ReplayedDataset, refuse_batch_augments, refuse_switches
from mmkd_plugin.replay.refusals import refuse_dataset, transforms_of


@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('name', ['CachedMosaic', 'CachedMixUp'])
def test_transform_with_a_cache_is_refused_by_name(name: str, nested: bool, tmp_path: Path) -> None:
    transform: dict[str, Any] = dict(type=name, img_scale=(48, 48))
    if nested:
        transform = dict(type='RandomApply', transforms=[transform])
    config = views.mosaic(coco_files.write(tmp_path), transform)
    with raises_config_error('dataset.pipeline', name, fix=name.removeprefix('Cached')):
        ReplayedDataset(config)


class RecycledMosaic:
    """Keeps earlier results under MMDet's name for them, and has no telling name itself."""

    def __init__(self) -> None:
        self.results_cache: list[Any] = []


@pytest.mark.parametrize(
    'wrap',
    [
        lambda one: dict(a=[one]),
        lambda one: _With('transforms', [one]),
        lambda one: _With('transforms', [[one]]),
        lambda one: _With('branch_pipelines', dict(sup=_With('transforms', [one]))),
        lambda one: _With('transform', one),
    ],
)
def test_cache_is_found_inside_other_transforms_and_wrappers(wrap: Any) -> None:
    dataset = TinyImages()
    dataset.pipeline = wrap(RecycledMosaic())
    for outer in (dataset, _Wrapper('dataset', dataset), _Wrapper('datasets', [dataset, dataset])):
        assert sum(isinstance(one, RecycledMosaic) for one in transforms_of(outer)) == 1
        with raises_config_error('dataset.pipeline', 'RecycledMosaic'):
            refuse_dataset(outer)


class _With:
    def __init__(self, name: str, value: Any) -> None:
        setattr(self, name, value)


class _Wrapper(_With):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return index


def test_pipeline_that_contains_itself_ends() -> None:
    outer = _With('transforms', [])
    outer.transforms.append(outer)  # type: ignore[attr-defined]
    assert list(transforms_of(outer)) == [outer]


def test_mosaic_that_fetches_its_images_is_allowed(tmp_path: Path) -> None:
    ReplayedDataset(views.mosaic(coco_files.write(tmp_path))).full_init()


def test_every_transform_of_mmdet_with_a_cache_is_refused() -> None:
    with_cache = [
        name
        for name, kind in TRANSFORMS.module_dict.items()
        if 'results_cache' in getattr(kind.__init__, '__code__', _NOTHING).co_names
    ]
    assert sorted(with_cache) == ['CachedMixUp', 'CachedMosaic']


class _NOTHING:
    co_names = ()


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __len__(self) -> int:
        return 3


class OnlyIterates:
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize('kind', [Endless, OnlyIterates])
def test_iterable_data_set_is_refused(kind: Any) -> None:
    with raises_config_error('dataset', kind.__name__, fix='infinite=True'):
        ReplayedDataset(kind())


def cls_preprocessor(*augments: Any) -> Any:
    augment = dict(augments=list(augments)) if augments else None
    config = dict(type='ClsDataPreprocessor', num_classes=4, batch_augments=augment)
    return ROOT_MODELS.build(dict(config, _scope_='mmpretrain'))


def det_preprocessor(*augments: Any) -> Any:
    config = dict(type='DetDataPreprocessor', batch_augments=list(augments))
    return ROOT_MODELS.build(dict(config, _scope_='mmdet'))


_SYNC = dict(type='BatchSyncRandomResize', random_size_range=(32, 64), size_divisor=32)


@pytest.mark.parametrize(
    ('preprocessor', 'names'),
    [
        (lambda: cls_preprocessor(dict(type='Mixup', alpha=0.2)), 'Mixup'),
        (
            lambda: cls_preprocessor(dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)),
            'Mixup, CutMix',
        ),
        (lambda: det_preprocessor(_SYNC), 'BatchSyncRandomResize'),
        (lambda: det_preprocessor(dict(type='BatchFixedSizePad', size=(64, 64)), _SYNC),
         'BatchSyncRandomResize'),
    ],
)  # fmt: skip
def test_batch_augmentation_is_refused_by_name(preprocessor: Any, names: str) -> None:
    with raises_config_error('data_preprocessor.batch_augments', names):
        refuse_batch_augments(preprocessor())


def test_batch_augmentation_of_a_nested_preprocessor_is_refused() -> None:
    inner = dict(type='DetDataPreprocessor', batch_augments=[_SYNC])
    outer = ROOT_MODELS.build(
        dict(type='MultiBranchDataPreprocessor', data_preprocessor=inner, _scope_='mmdet')
    )
    with raises_config_error('data_preprocessor.batch_augments', 'BatchSyncRandomResize'):
        refuse_batch_augments(outer)


@pytest.mark.parametrize(
    'preprocessor',
    [
        cls_preprocessor,
        det_preprocessor,
        lambda: det_preprocessor(dict(type='BatchFixedSizePad', size=(64, 64))),
    ],
)
def test_preprocessor_that_draws_nothing_is_allowed(preprocessor: Any) -> None:
    refuse_batch_augments(preprocessor())


class OwnSwitch(PipelineSwitchHook):
    pass


@pytest.mark.parametrize(
    ('hook', 'name'),
    [
        (PipelineSwitchHook(3, []), 'PipelineSwitchHook'),
        (YOLOXModeSwitchHook(), 'YOLOXModeSwitchHook'),
        (OwnSwitch(3, []), 'PipelineSwitchHook'),
    ],
)
def test_hook_that_exchanges_transforms_is_refused(hook: Any, name: str) -> None:
    with raises_config_error('custom_hooks', name):
        refuse_switches([EMAHook(), hook])


def test_other_hooks_are_allowed() -> None:
    refuse_switches([EMAHook()])
