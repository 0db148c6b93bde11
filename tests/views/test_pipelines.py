"""Views: the same draw of geometry as the student's, whatever else is drawn."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import ANY, raises_config_error
from helpers.views import noise_images
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor
from torch.utils.data import DataLoader

from mmkd_plugin.views import MultiViewDataset

PACK = dict(type='PackInputs')
GREY = dict(type='RandomGrayscale', prob=1.0)
CROP = dict(type='RandomCrop', crop_size=32, padding=4)
FLIP = dict(type='RandomFlip', prob=0.5)
JITTER = dict(type='ColorJitter', brightness=0.5, contrast=0.5)
#: They draw, and change nothing.
STILL_JITTER = dict(type='ColorJitter', brightness=0.0, contrast=0.0)
STILL_ERASE = dict(type='RandomErasing', erase_prob=0.0)
ERASE = dict(type='RandomErasing', erase_prob=0.9, mode='rand')

#: Geometry of the student's pipeline.
GEOMETRY = {
    'crop and flip': [CROP, FLIP],
    'resized crop': [dict(type='RandomResizedCrop', scale=24), FLIP],
    'policy': [
        dict(type='RandAugment', policies='timm_increasing', num_policies=2, magnitude_level=9),
        FLIP,
    ],
    'rotation': [dict(type='Rotate', angle=30.0, prob=0.7), dict(type='CenterCrop', crop_size=20)],
    'torchvision': [
        dict(type='NumpyToPIL'),
        dict(type='torchvision/RandomResizedCrop', size=20),
        dict(type='PILToNumpy'),
        FLIP,
    ],
}


@pytest.fixture(autouse=True)
def scope() -> Any:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def data(student: list[Any], view: list[Any] | None, **changes: Any) -> MultiViewDataset:
    inner = noise_images(pipeline=copy.deepcopy(student))
    views = {} if view is None else dict(rgb=dict(pipeline=copy.deepcopy(view), **changes))
    return MultiViewDataset(inner, views)


def seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


@pytest.mark.parametrize('case', GEOMETRY)
@pytest.mark.parametrize('colours', [False, True], ids=['plain', 'colours'])
def test_view_shows_what_the_student_sees(case: str, colours: bool) -> None:
    """Draws of colours in one pipeline alone, before and between, leave the geometry as it is."""
    first, *others = GEOMETRY[case]
    student = [first, *others, PACK]
    if colours:
        student = [STILL_JITTER, first, STILL_ERASE, STILL_JITTER, *others, STILL_JITTER, PACK]
    dataset = data(student, [first, STILL_JITTER, *others, PACK])
    shown = set()
    for index in [0, 1, 2, 3] * 3:
        sample = dataset[index]
        view = sample['views']['rgb']
        assert torch.equal(view['inputs'], sample['inputs'])
        assert view['data_samples'].gt_label.tolist() == [index % 4]
        shown.add(sample['inputs'].numpy().tobytes())
    assert len(shown) > 4, 'it draws'


@pytest.mark.parametrize('case', GEOMETRY)
def test_samples_of_the_student_are_those_of_a_run_without_views(case: str) -> None:
    student = [JITTER, *GEOMETRY[case], ERASE, PACK]
    plain = DATASETS.build(noise_images(pipeline=copy.deepcopy(student)))
    dataset = data(student, [*GEOMETRY[case], JITTER, JITTER, PACK])
    seed(3)
    expected = [plain[index] for index in range(6)]
    seed(3)
    for index, one in enumerate(expected):
        found = dataset[index]
        assert torch.equal(found['inputs'], one['inputs'])
        assert found['data_samples'].keys() == one['data_samples'].keys()


def test_grey_student_and_colour_view_are_the_same_place() -> None:
    dataset = data([GREY, CROP, FLIP, PACK], [CROP, FLIP, PACK])
    for index in range(8):
        sample = dataset[index]
        colour = sample['views']['rgb']['inputs'].float()
        assert sample['inputs'].shape == (1, 32, 32)
        assert colour.shape == (3, 32, 32)
        assert (sample['inputs'][0] - colour.mean(dim=0)).abs().max() <= 1


def test_view_of_twice_the_resolution_shows_the_same_area() -> None:
    larger = [CROP, FLIP, dict(type='Resize', scale=(64, 64), interpolation='nearest'), PACK]
    dataset = data([CROP, FLIP, PACK], larger)
    for index in range(8):
        sample = dataset[index]
        assert torch.equal(sample['views']['rgb']['inputs'][:, ::2, ::2], sample['inputs'])


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_hold_the_views_in_workers(workers: int) -> None:
    dataset = data([GREY, CROP, FLIP, PACK], [CROP, FLIP, PACK])
    loader = DataLoader(dataset, 4, num_workers=workers, collate_fn=pseudo_collate)
    for batch in loader:
        views: list[Tensor] = batch['views']['rgb']['inputs']
        assert [tuple(one.shape) for one in views] == [(3, 32, 32)] * len(batch['inputs'])


@pytest.mark.parametrize(
    'wrapper', ['ConcatDataset', 'RepeatDataset', 'mmkd_plugin.ReplayedDataset']
)
def test_wrappers_of_data_sets(wrapper: str) -> None:
    inner = noise_images(pipeline=[CROP, FLIP, PACK])
    views = dict(rgb=dict(pipeline=[CROP, FLIP, PACK]))
    if wrapper == 'mmkd_plugin.ReplayedDataset':
        inside = dict(type='mmkd_plugin.MultiViewDataset', dataset=inner, views=views)
        dataset = DATASETS.build(dict(type=wrapper, dataset=inside, views=1))
        dataset.full_init()
    else:
        parts: dict[str, Any] = dict(datasets=[inner, inner])
        if wrapper == 'RepeatDataset':
            parts = dict(dataset=inner, times=2)
        dataset = MultiViewDataset(dict(type=wrapper, **parts), views)
        assert len(dataset) == 24
    again = [dataset[index] for index in (1, 11)]
    for sample in again:
        assert torch.equal(sample['views']['rgb']['inputs'], sample['inputs'])


def test_data_set_without_views_is_as_it_was() -> None:
    dataset = data([CROP, PACK], None)
    assert 'views' not in dataset[0]
    assert dataset.metainfo['classes'] == tuple('abcd')


def test_exchanged_pipeline_has_the_views_again() -> None:
    dataset = data([CROP, FLIP, PACK], [CROP, FLIP, PACK])
    assert 'views' in dataset[0]
    other = copy.copy(dataset.pipeline)
    dataset.pipeline = other
    assert 'views' in dataset[0]
    assert dataset.pipeline is other


REFUSED: dict[str, tuple[list[Any], list[Any], str]] = {
    'without the flip': ([CROP, FLIP, PACK], [CROP, PACK], 'RandomCrop'),
    'another order': ([CROP, FLIP, PACK], [FLIP, CROP, PACK], 'same order'),
    'another crop': (
        [CROP, PACK],
        [dict(CROP, crop_size=28), PACK],
        'RandomCrop must have crop_size=',
    ),
    'another chance': ([FLIP, PACK], [dict(FLIP, prob=0.3), PACK], 'RandomFlip must have prob'),
    'no Compose': ([CROP, PACK], [dict(type='Nothing')], 'cannot be built'),
    'wrong argument': ([CROP, PACK], [dict(CROP, sice=3)], 'cannot be built'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_pipelines_that_draw_otherwise_are_refused(case: str) -> None:
    student, view, words = REFUSED[case]
    key = 'pipeline[0]' if words == 'cannot be built' else 'pipeline'
    with raises_config_error(f'views.rgb.{key}', ANY, words):
        data(student, view).full_init()


def test_size_before_a_crop_is_refused_by_name() -> None:
    larger = [dict(type='Resize', scale=(64, 64)), CROP, PACK]
    with raises_config_error(
        'views.rgb.pipeline', (64, 64), 'RandomCrop draws in pixels', fix='after'
    ):
        data([CROP, PACK], larger)[0]


def test_fixed_crops_of_another_share_are_refused() -> None:
    def crop(side: int) -> dict[str, Any]:
        return dict(type='CenterCrop', crop_size=side)

    double = dict(type='Resize', scale=(64, 64))
    assert data([crop(24), PACK], [double, crop(48), PACK])[0]['views']
    with raises_config_error('views.rgb.pipeline', ANY, 'CenterCrop must keep the same share'):
        data([crop(24), PACK], [double, crop(40), PACK])[0]


def test_unknown_transform_must_be_named_if_it_moves_nothing() -> None:
    unknown = dict(type='EfficientNetCenterCrop', crop_size=32)
    with raises_config_error(
        'views.rgb.pipeline', 'RandomCrop', 'EfficientNetCenterCrop', fix='own_draws'
    ):
        data([CROP, unknown, PACK], [CROP, PACK])[0]
    views = dict(rgb=dict(pipeline=[CROP, PACK], own_draws=['EfficientNetCenterCrop']))
    inner = noise_images(pipeline=[CROP, unknown, PACK])
    assert 'views' in MultiViewDataset(inner, views)[0]


def test_data_set_without_a_pipeline_is_refused() -> None:
    with raises_config_error('dataset.pipeline', 'TinyImages'):
        MultiViewDataset(dict(type='TinyImages'), dict(rgb=dict(pipeline=[PACK]))).full_init()
