"""The sampler of views."""

import copy
import itertools
import pickle
from typing import Any

import pytest
from helpers.classification import TinyImages
from helpers.errors import raises_config_error
from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from torch.utils.data import BatchSampler

from mmkd_plugin.replay import ReplayedDataset, ReplaySampler, ViewIndex
from mmkd_plugin.replay import sampler as module


def dataset(length: int = 10, views: int = 3, seed: int = 0) -> ReplayedDataset:
    return ReplayedDataset(TinyImages(length), views=views, seed=seed, checks=0)


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    monkeypatch.setattr(module, 'get_dist_info', lambda: (rank, size))


def pairs(indices: Any) -> list[tuple[int, int]]:
    return [(int(index), index.view) for index in indices]


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_view_index_is_an_integer_and_keeps_its_view_in_copies(protocol: int) -> None:
    index = ViewIndex(5, view=2)
    assert index == 5 and list('abcdefg')[index] == 'f' and hash(index) == hash(5)
    for other in (
        pickle.loads(pickle.dumps(index, protocol)),
        copy.copy(index),
        copy.deepcopy(index),
    ):
        assert type(other) is ViewIndex and pairs([other]) == [(5, 2)]


@pytest.mark.parametrize('epoch', range(7))
def test_sampler_epoch_has_every_image_once_in_one_view(epoch: int) -> None:
    sampler = ReplaySampler(dataset())
    sampler.set_epoch(epoch)
    found = pairs(sampler)
    assert sorted(found) == [(index, epoch % 3) for index in range(10)]
    assert len(sampler) == 10


def test_sampler_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int | None, epoch: int, of_data: int = 0) -> list[int]:
        sampler = ReplaySampler(dataset(seed=of_data), seed=seed)
        sampler.set_epoch(epoch)
        return list(map(int, sampler))

    assert order(1, 4) == order(1, 4)
    orders = [order(1, 0), order(1, 1), order(2, 3), order(1, 3), list(range(10))]
    assert all(one != other for one, other in itertools.combinations(orders, 2))
    assert order(None, 0, of_data=5) == order(5, 0)


def test_sampler_without_shuffle_keeps_the_order() -> None:
    assert pairs(ReplaySampler(dataset(), shuffle=False)) == [(index, 0) for index in range(10)]


@pytest.mark.parametrize('round_up', [True, False])
@pytest.mark.parametrize('length', [1, 2, 7, 8, 9])
@pytest.mark.parametrize('size', [1, 2, 3, 4])
def test_sampler_processes_share_one_order(
    size: int, length: int, round_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pairs(ReplaySampler(dataset(length), seed=3))
    shares = []
    for rank in range(size):
        as_rank(monkeypatch, rank, size)
        sampler = ReplaySampler(dataset(length), seed=3, round_up=round_up)
        shares.append(pairs(sampler))
        assert len(shares[-1]) == len(sampler)
    joined = [one for step in itertools.zip_longest(*shares) for one in step if one is not None]
    expected = itertools.islice(itertools.cycle(whole), len(joined))
    assert joined == list(expected)
    assert len(joined) == (-(-length // size) * size if round_up else length)


@pytest.mark.parametrize('size', [1, 2, 3])
def test_sampler_infinite_continues_epoch_by_epoch(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = []
    for epoch in range(5):
        sampler = ReplaySampler(dataset(), seed=3)
        sampler.set_epoch(epoch)
        expected += pairs(sampler)
    for rank in range(size):
        as_rank(monkeypatch, rank, size)
        sampler = ReplaySampler(dataset(), seed=3, infinite=True)
        share = expected[rank::size]
        sampler.set_epoch(4)  # an iteration-based loop counts no epochs
        assert pairs(itertools.islice(sampler, len(share))) == share
        assert len(sampler) == 10


def test_sampler_epoch_is_that_at_the_start_of_an_iteration() -> None:
    sampler = ReplaySampler(dataset())
    before = iter(sampler)
    sampler.set_epoch(1)
    assert {view for _, view in pairs(before)} == {0}
    assert {view for _, view in pairs(sampler)} == {1}


def test_sampler_keeps_the_view_under_a_stock_batch_sampler() -> None:
    sampler = ReplaySampler(dataset())
    sampler.set_epoch(2)
    batches = list(BatchSampler(sampler, 4, drop_last=False))
    assert {view for batch in batches for _, view in pairs(batch)} == {2}


def test_sampler_is_built_from_the_scope_of_a_host() -> None:
    with ROOT_DATA_SAMPLERS.switch_scope_and_registry('mmpretrain') as registry:
        built = registry.build(
            dict(type='mmkd_plugin.ReplaySampler', shuffle=False, dataset=dataset(), seed=9)
        )
    assert isinstance(built, ReplaySampler) and built.seed == 9


def test_sampler_above_another_data_set_is_an_error() -> None:
    with raises_config_error('train_dataloader.dataset', 'TinyImages', fix='ReplayedDataset'):
        ReplaySampler(TinyImages())
