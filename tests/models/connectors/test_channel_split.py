import itertools
from typing import Any

import pytest
import torch

from mmkd_plugin.models.connectors import ChannelSplit
from mmkd_plugin.registry import MODELS, SCOPE


def indices(split: ChannelSplit) -> list[list[int]]:
    return [split.inherit_index.tolist(), split.explore_index.tolist()]


@pytest.mark.parametrize(
    ('channels', 'ratio', 'inherit'),
    [(8, 0.5, 4), (8, 0.25, 2), (10, 0.34, 3), (7, 0.4, 3), (2, 0.5, 1), (64, 0.99, 63)],
)
@pytest.mark.parametrize('mode', ['random', 'halves'])
def test_two_sorted_parts_make_the_whole(
    channels: int, ratio: float, inherit: int, mode: str
) -> None:
    one, other = indices(ChannelSplit(channels, ratio, mode))
    assert len(one) == inherit
    assert one == sorted(one) and other == sorted(other)
    assert sorted(one + other) == list(range(channels))


def test_halves_are_the_first_and_the_last() -> None:
    assert indices(ChannelSplit(6, mode='halves')) == [[0, 1, 2], [3, 4, 5]]
    assert indices(ChannelSplit(6, 0.3, mode='halves')) == [[0, 1], [2, 3, 4, 5]]


def test_the_draw_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    after = torch.random.get_rng_state()
    one = indices(ChannelSplit(64))
    assert torch.equal(torch.random.get_rng_state(), after), 'it leaves the run its random numbers'
    torch.manual_seed(2)
    assert indices(ChannelSplit(64)) == one
    drawn = [one, *(indices(ChannelSplit(64, seed=seed)) for seed in (1, 2))]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    assert one != indices(ChannelSplit(64, mode='halves'))


@pytest.mark.parametrize('shape', [(3, 6), (3, 6, 4, 4), (1, 6, 2, 3), (2, 6, 5)])
def test_channels_go_where_the_indices_say(shape: tuple[int, ...]) -> None:
    split, x = ChannelSplit(6, seed=4), torch.randn(shape)
    inherit, explore = split(x)
    for part, index in ((inherit, split.inherit_index), (explore, split.explore_index)):
        assert torch.equal(part, torch.stack([x[:, i] for i in index.tolist()], dim=1))
        assert part.is_contiguous()


def test_the_gradient_of_each_part_reaches_its_own_channels() -> None:
    split = ChannelSplit(6, seed=4)
    x = torch.randn(2, 6, 3, 3, requires_grad=True)
    inherit, explore = split(x)
    (2 * inherit.sum() + 5 * explore.sum()).backward()
    expected = torch.empty(6)
    expected[split.inherit_index], expected[split.explore_index] = 2.0, 5.0
    assert torch.equal(x.grad, expected.view(1, 6, 1, 1).expand_as(x))


@pytest.mark.parametrize('mode', ['random', 'halves'])
def test_what_was_saved_counts(mode: str) -> None:
    saved, x = ChannelSplit(64, seed=5), torch.randn(2, 64)
    split = ChannelSplit(64, mode=mode, seed=6)
    assert set(split.state_dict()) == {'inherit_index', 'explore_index'}
    assert not list(split.parameters())
    split.load_state_dict(saved.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(split(x), saved(x), strict=True))


def test_it_keeps_the_type_of_the_map() -> None:
    assert [part.dtype for part in ChannelSplit(4)(torch.ones(1, 4, dtype=torch.bfloat16))] == [
        torch.bfloat16
    ] * 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(channels=8, ratio=0), r'^ratio: expected a number between 0 and 1, got 0'),
        (dict(channels=8, ratio=1.0), r'^ratio: expected a number between 0 and 1, got 1\.0'),
        (dict(channels=8, ratio=-0.1), r'^ratio: expected a number between 0 and 1, got -0\.1'),
        (
            dict(channels=8, ratio=float('nan')),
            r'^ratio: expected a number between 0 and 1, got nan',
        ),
        (dict(channels=8, ratio='half'), r"^ratio: expected a number between 0 and 1, got 'half'"),
        (
            dict(channels=8, ratio=0.01),
            r'^ratio: expected at least one channel in each part, got 0 and 8 of 8 with 0\.01',
        ),
        (
            dict(channels=8, ratio=0.99),
            r'^ratio: expected at least one channel in each part, got 8 and 0 of 8 with 0\.99',
        ),
        (
            dict(channels=1, ratio=0.4),
            r'^ratio: expected at least one channel in each part, got 0 and 1 of 1',
        ),
        (
            dict(channels=7),
            r'^ratio: expected an even number of channels to halve, got 7; state another ratio',
        ),
        (dict(channels=0), r'^channels: expected an integer >= 1, got 0'),
        (
            dict(channels=8, mode='natural'),
            r"^mode: expected one of 'random', 'halves', got 'natural'",
        ),
        (dict(channels=8, seed=None), r'^seed: expected an integer, got None'),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChannelSplit(**arguments)


@pytest.mark.parametrize('shape', [(2, 4, 3, 3), (8,), (8, 2)])
def test_other_channels_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'^channels: expected \(N, 8, \.\.\.\), got'):
        ChannelSplit(8)(torch.randn(shape))


def test_from_a_config() -> None:
    built = MODELS.build(dict(type='ChannelSplit', channels=6, mode='halves', _scope_=SCOPE))
    assert indices(built) == [[0, 1, 2], [3, 4, 5]]
