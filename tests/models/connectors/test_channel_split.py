import itertools
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error

from mmkd_plugin.models.connectors import ChannelSplit


def indices(split: ChannelSplit) -> list[list[int]]:
    return [split.inherit_index.tolist(), split.explore_index.tolist()]


@pytest.mark.parametrize(
    ('channels', 'ratio', 'inherit'),
    [(8, 0.5, 4), (8, 0.25, 2), (10, 0.34, 3), (7, 0.4, 3), (2, 0.5, 1), (64, 0.99, 63)],
)
@pytest.mark.parametrize('mode', ['random', 'halves'])
def test_channel_split_makes_two_sorted_parts_of_the_whole(
    channels: int, ratio: float, inherit: int, mode: str
) -> None:
    one, other = indices(ChannelSplit(channels, ratio, mode))
    assert len(one) == inherit
    assert one == sorted(one) and other == sorted(other)
    assert sorted(one + other) == list(range(channels))


def test_channel_split_in_halves_takes_the_first_and_the_last() -> None:
    assert indices(ChannelSplit(6, mode='halves')) == [[0, 1, 2], [3, 4, 5]]
    assert indices(ChannelSplit(6, 0.3, mode='halves')) == [[0, 1], [2, 3, 4, 5]]


def test_channel_split_draws_by_its_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = indices(ChannelSplit(64))
    assert torch.equal(torch.random.get_rng_state(), before), "the run's generator stays"
    torch.manual_seed(2)
    assert indices(ChannelSplit(64)) == one
    drawn = [one, *(indices(ChannelSplit(64, seed=seed)) for seed in (1, 2))]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    assert one != indices(ChannelSplit(64, mode='halves'))


@pytest.mark.parametrize('shape', [(3, 6), (3, 6, 4, 4), (1, 6, 2, 3), (2, 6, 5)])
def test_channel_split_sends_channels_by_the_indices(shape: tuple[int, ...]) -> None:
    split, x = ChannelSplit(6, seed=4), torch.randn(shape)
    inherit, explore = split(x)
    for part, index in ((inherit, split.inherit_index), (explore, split.explore_index)):
        assert torch.equal(part, torch.stack([x[:, i] for i in index.tolist()], dim=1))
        assert part.is_contiguous()


def test_channel_split_returns_each_gradient_to_its_own_channels() -> None:
    split = ChannelSplit(6, seed=4)
    x = torch.randn(2, 6, 3, 3, requires_grad=True)
    inherit, explore = split(x)
    (2 * inherit.sum() + 5 * explore.sum()).backward()
    expected = torch.empty(6)
    expected[split.inherit_index], expected[split.explore_index] = 2.0, 5.0
    assert torch.equal(x.grad, expected.view(1, 6, 1, 1).expand_as(x))


@pytest.mark.parametrize('mode', ['random', 'halves'])
def test_channel_split_after_loading_uses_the_saved_indices(mode: str) -> None:
    saved, x = ChannelSplit(64, seed=5), torch.randn(2, 64)
    split = ChannelSplit(64, mode=mode, seed=6)
    assert set(split.state_dict()) == {'inherit_index', 'explore_index'}
    assert not list(split.parameters())
    split.load_state_dict(saved.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(split(x), saved(x), strict=True))


def test_channel_split_keeps_the_type_of_the_map() -> None:
    assert [part.dtype for part in ChannelSplit(4)(torch.ones(1, 4, dtype=torch.bfloat16))] == [
        torch.bfloat16
    ] * 2


@pytest.mark.parametrize(
    ('arguments', 'key', 'mentions'),
    [
        (dict(channels=8, ratio=0), 'ratio', ['between 0 and 1']),
        (dict(channels=8, ratio=1.0), 'ratio', ['between 0 and 1']),
        (dict(channels=8, ratio=-0.1), 'ratio', ['between 0 and 1']),
        (dict(channels=8, ratio=float('nan')), 'ratio', ['between 0 and 1']),
        (dict(channels=8, ratio='half'), 'ratio', ['between 0 and 1']),
        (dict(channels=8, ratio=True), 'ratio', ['between 0 and 1']),
        (dict(channels=8, ratio=0.01), 'ratio', ['at least one channel', '0 and 8 of 8']),
        (dict(channels=8, ratio=0.99), 'ratio', ['at least one channel', '8 and 0 of 8']),
        (dict(channels=1, ratio=0.4), 'ratio', ['at least one channel', '0 and 1 of 1']),
        (dict(channels=7, ratio=0.5), 'ratio', ['halve 7 channels', 'another ratio']),
        (dict(channels=8, mode='natural'), 'mode', ["'random', 'halves'"]),
        (dict(channels=8, seed=None), 'seed', ['an integer']),
        (dict(channels=8, seed=True), 'seed', ['an integer']),
    ],
)
def test_channel_split_with_an_argument_out_of_range_is_refused(
    arguments: dict[str, Any], key: str, mentions: list[str]
) -> None:
    with raises_config_error(key, arguments[key], *mentions):
        ChannelSplit(**arguments)


def test_channel_split_with_odd_channels_needs_another_ratio() -> None:
    with raises_config_error('ratio', 0.5, fix='another ratio'):
        ChannelSplit(7)


@pytest.mark.parametrize('shape', [(2, 4, 3, 3), (8,), (8, 2)])
def test_channel_split_with_other_channels_is_refused(shape: tuple[int, ...]) -> None:
    with raises_config_error('channels', shape, '(N, 8, ...)'):
        ChannelSplit(8)(torch.randn(shape))
