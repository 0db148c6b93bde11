"""Numbered views: the same view is the same image, however it is loaded."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import coco_files, views
from helpers.classification import TinyImages
from helpers.errors import raises_config_error
from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.runner.runner import _SlicedDataset
from mmengine.structures import BaseDataElement

from mmkd_plugin.replay import ReplayedDataset, ReplaySampler, ViewIndex
from mmkd_plugin.replay.checksum import checksum_of, mark, replayed_rows


def scenes(folder: Path, **changes: Any) -> ReplayedDataset:
    return ReplayedDataset(views.mosaic(coco_files.write(folder)), **{'views': 3, **changes})


def pixels(dataset: ReplayedDataset, index: int, view: int) -> bytes:
    return dataset[ViewIndex(index, view)]['inputs'].numpy().tobytes()


# Replay


def test_view_is_the_same_image_whatever_was_drawn_before() -> None:
    dataset = ReplayedDataset(views.noise_images(), views=4)
    expected = {(i, v): pixels(dataset, i, v) for i in range(12) for v in range(4)}
    assert len(set(expected.values())) == 48  # the pipeline is random, and so are the views
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    for index, view in reversed(expected):
        assert pixels(dataset, index, view) == expected[index, view]


def test_view_differs_with_the_seed() -> None:
    one, other = (ReplayedDataset(views.noise_images(), seed=seed) for seed in (0, 1))
    assert sum(pixels(one, i, 0) == pixels(other, i, 0) for i in range(12)) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:This DataLoader will create 3 worker processes')
@pytest.mark.parametrize('persistent', [False, True])
def test_views_are_equal_for_any_number_of_workers(persistent: bool) -> None:
    dataset = ReplayedDataset(views.noise_images(), views=3)
    expected = views.epochs(views.loader(dataset), (0, 1, 4))
    assert len({image for _, _, image, _ in expected[:24]}) == 24
    for workers in (1, 3):
        data = views.loader(dataset, workers, persistent_workers=persistent)
        assert views.epochs(data, (0, 1, 4)) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:This DataLoader will create 3 worker processes')
def test_views_mixed_by_mosaic_and_mixup_are_equal_for_any_number_of_workers(
    tmp_path: Path,
) -> None:
    dataset = scenes(tmp_path)
    dataset.full_init()
    expected = views.epochs(views.loader(dataset), (0, 1))
    assert len({image for _, _, image, _ in expected}) == 8
    assert views.epochs(views.loader(scenes(tmp_path), 3), (0, 1)) == expected


def test_views_continue_in_a_resumed_run() -> None:
    dataset = ReplayedDataset(views.noise_images(), views=2)
    whole = views.epochs(views.loader(dataset), (0, 1, 2))
    again = ReplayedDataset(views.noise_images(), views=2)
    assert views.epochs(views.loader(again), (2,)) == whole[24:]
    of_view = [{(i, image) for i, v, image, _ in whole[n : n + 12]} for n in (0, 12, 24)]
    assert of_view[0] == of_view[2] and not of_view[0] & of_view[1]


def test_draws_of_a_data_set_come_from_three_generators_which_are_restored() -> None:
    dataset = ReplayedDataset(views.Draws(), views=300, checks=0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    drawn = [dataset[ViewIndex(0, view)]['inputs'][0, 0, :3].tolist() for view in range(300)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.get_rng_state().tolist() == states[2]
    assert all(len({one[channel] for one in drawn}) > 100 for channel in range(3))


def test_view_of_a_broken_image_is_always_the_same_other_image() -> None:
    config = views.noise_images(lazy_init=True)
    whole = ReplayedDataset(views.noise_images(), views=3)
    dataset = ReplayedDataset(config, views=3)
    dataset.dataset.pipeline = _Drops(dataset.pipeline)
    found = {(v, n): pixels(dataset, 5, v) for v in range(3) for n in range(2)}
    assert all(found[v, 0] == found[v, 1] != pixels(whole, 5, v) for v in range(3))
    assert pixels(dataset, 6, 0) == pixels(whole, 6, 0)


class _Drops:
    """Finds no image in sample 5, as a damaged file does."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def __call__(self, info: dict[str, Any]) -> Any:
        return None if info['sample_idx'] == 5 else self.pipeline(info)


def test_states_are_restored_after_a_data_set_raises() -> None:
    dataset = ReplayedDataset(views.Draws(fail=3), checks=0)
    state = random.getstate()
    with pytest.raises(OSError, match='broken image'):
        dataset[ViewIndex(3, 0)]
    assert random.getstate() == state


# The mark on a sample


def test_sample_states_index_view_and_the_checksum_of_its_image() -> None:
    dataset = ReplayedDataset(views.noise_images(), views=4)
    sample = dataset[ViewIndex(7, 2)]
    note = sample['data_samples'].replay
    assert note == dict(index=7, view=2, checksum=checksum_of(sample['inputs']))
    assert type(note['index']) is int


def test_sample_of_several_branches_is_marked_in_each() -> None:
    inputs = dict(sup=torch.zeros(3, 2, 2), unsup=[torch.ones(3, 2, 2), torch.zeros(1)])
    elements = [BaseDataElement(), BaseDataElement()]
    sample = dict(inputs=inputs, data_samples=dict(sup=elements[0], unsup=[elements[1]]))
    mark(sample, 4, 1)
    assert elements[0].replay == elements[1].replay
    inputs['unsup'][1][0] = 5
    before = elements[0].replay['checksum']
    mark(sample, 4, 1)
    assert elements[0].replay['checksum'] != before


@pytest.mark.parametrize(
    ('one', 'other'),
    [
        (torch.zeros(3, 2, 2), torch.zeros(3, 4, 1)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (torch.tensor([1, 2]), torch.tensor([2, 1])),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([1.0, 3.0]).bfloat16()),
    ],
)
def test_checksum_differs_with_shape_type_and_value(one: torch.Tensor, other: torch.Tensor) -> None:
    assert checksum_of(one) != checksum_of(other)


def test_checksum_of_a_view_of_memory_is_that_of_its_values() -> None:
    image = torch.arange(12).reshape(3, 4)
    assert checksum_of(image.T) == checksum_of(image.T.contiguous()) != checksum_of(image)


def test_replayed_rows_of_an_epoch_lie_side_by_side() -> None:
    dataset = ReplayedDataset(TinyImages(6), views=3, checks=0)
    samples = [dataset[ViewIndex(index, 2)] for index in (5, 0, 3)]
    rows, checksums = replayed_rows([one['data_samples'] for one in samples], len(dataset))
    assert rows.tolist() == [17, 12, 15]
    assert checksums.tolist() == [checksum_of(one['inputs']) for one in samples]
    with raises_config_error('train_dataloader.dataset', fix='ReplayedDataset'):
        replayed_rows([samples[0]['data_samples'], TinyImages(6)[0]['data_samples']], 6)


@pytest.mark.parametrize(
    'sample', [dict(inputs=torch.zeros(2)), dict(data_samples=BaseDataElement()), torch.zeros(2)]
)
def test_sample_of_another_form_is_an_error(sample: Any) -> None:
    with raises_config_error('dataset', fix='Pack'):
        mark(sample, 0, 0)


# A data set among others


def test_data_set_is_built_from_the_scope_of_a_host_with_its_sampler() -> None:
    config = dict(type='mmkd_plugin.ReplayedDataset', dataset=views.noise_images(), views=2)
    with ROOT_DATASETS.switch_scope_and_registry('mmpretrain') as registry:
        dataset = registry.build(config)
    with ROOT_DATA_SAMPLERS.switch_scope_and_registry('mmpretrain') as registry:
        sampler = registry.build(
            dict(type='mmkd_plugin.ReplaySampler'), default_args=dict(dataset=dataset, seed=None)
        )
    assert isinstance(dataset, ReplayedDataset) and isinstance(sampler, ReplaySampler)


def test_data_set_has_the_attributes_of_the_one_inside() -> None:
    dataset = ReplayedDataset(views.noise_images(lazy_init=True), views=2)
    assert not dataset._fully_initialized
    dataset.full_init()
    assert dataset.metainfo['classes'] == tuple('abcd')
    assert dataset.get_cat_ids(3) == [3] and len(dataset) == 12
    assert dataset.get_data_info(ViewIndex(3, 1))['sample_idx'] == 3
    assert tuple('abcd') == dataset.CLASSES
    with pytest.raises(AttributeError, match='nonsense'):
        dataset.nonsense  # noqa: B018
    copied = pickle.loads(pickle.dumps(dataset))
    assert pixels(copied, 3, 1) == pixels(dataset, 3, 1)


def test_data_set_takes_another_pipeline_from_a_hook() -> None:
    dataset = ReplayedDataset(views.noise_images(), views=2)
    before = pixels(dataset, 3, 1)
    dataset.pipeline = dataset.dataset.pipeline.__class__(dataset.pipeline.transforms[-1:])
    assert len(dataset.dataset.pipeline.transforms) == 1
    assert pixels(dataset, 3, 1) != before


def test_aspect_ratio_batches_of_mmdet_keep_the_view(tmp_path: Path) -> None:
    from mmdet.datasets.samplers import AspectRatioBatchSampler

    dataset = scenes(tmp_path)
    sampler = ReplaySampler(dataset)
    sampler.set_epoch(2)
    batches = list(AspectRatioBatchSampler(sampler, batch_size=2))
    assert sorted(int(index) for batch in batches for index in batch) == [0, 1, 2, 3]
    assert {index.view for batch in batches for index in batch} == {2}


def test_sampler_of_fewer_batches_an_epoch_yields_views() -> None:
    dataset = _SlicedDataset(ReplayedDataset(TinyImages(10), views=3), 4)
    sampler = ReplaySampler(dataset)
    sampler.set_epoch(1)
    assert sorted((int(index), index.view) for index in sampler) == [(n, 1) for n in range(4)]


# Plain indices


@pytest.mark.parametrize(('index', 'expected'), [(3, 3), (np.int64(3), 3), (-1, 11)])
@pytest.mark.parametrize('test_mode', [True, False])
def test_plain_index_has_the_first_view_where_no_other_is_meant(
    index: Any, expected: int, test_mode: bool
) -> None:
    dataset = ReplayedDataset(views.noise_images(test_mode=test_mode), views=5 if test_mode else 1)
    assert dataset[index]['data_samples'].replay['index'] == expected
    assert dataset[index]['inputs'].numpy().tobytes() == pixels(dataset, expected, 0)


def test_plain_index_in_training_is_an_error() -> None:
    dataset = ReplayedDataset(views.noise_images(), views=5)
    with raises_config_error('train_dataloader.sampler', 3, fix='ReplaySampler'):
        dataset[3]


def test_view_that_the_data_set_has_not_is_an_error() -> None:
    with pytest.raises(IndexError, match='view 5 of 5'):
        ReplayedDataset(TinyImages(), views=5)[ViewIndex(0, 5)]


# Bad input


@pytest.mark.parametrize('found', [0, -1, 2.0, True, '3', None])
def test_views_below_one_are_an_error(found: Any) -> None:
    with raises_config_error('views', found):
        ReplayedDataset(TinyImages(), views=found)


@pytest.mark.parametrize('key', ['seed', 'checks'])
@pytest.mark.parametrize('found', [-1, 1.5, None])
def test_seed_or_checks_that_are_no_number_are_an_error(key: str, found: Any) -> None:
    with raises_config_error(key, found):
        ReplayedDataset(TinyImages(), **{key: found})


@pytest.mark.parametrize('kind', [views.Remembers, views.OwnGenerator])
def test_data_set_that_cannot_be_replayed_is_found_by_drawing_twice(kind: Any) -> None:
    with raises_config_error('dataset.pipeline', kind.__name__, 'drawn twice'):
        ReplayedDataset(kind()).full_init()
    with raises_config_error('dataset.pipeline', kind.__name__):
        ReplayedDataset(kind())[ViewIndex(0, 0)]
    ReplayedDataset(kind(), checks=0).full_init()


def test_check_draws_each_sample_twice_with_others_between() -> None:
    dataset = ReplayedDataset(TinyImages(8), views=2, checks=4)
    drawn = []
    inside = dataset.dataset
    dataset.dataset = _Recorded(inside, drawn)
    dataset.full_init()
    assert drawn == [0, 2, 4, 6, 6, 4, 2, 0]
    dataset.full_init()
    assert len(drawn) == 8


class _Recorded:
    def __init__(self, inside: Any, drawn: list[int]) -> None:
        self.inside, self.drawn = inside, drawn

    def __len__(self) -> int:
        return len(self.inside)

    def __getitem__(self, index: int) -> Any:
        self.drawn.append(index)
        return self.inside[index]


def test_empty_data_set_is_an_error() -> None:
    with raises_config_error('dataset', 'TinyImages'):
        ReplayedDataset(TinyImages(0)).full_init()
