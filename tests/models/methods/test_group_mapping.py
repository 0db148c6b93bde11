from typing import Any

import pytest
import torch

from mmkd_plugin.models.methods.group_mapping import GroupMapping


def bound(mapping: Any, teachers: int = 3, groups: int = 3, seed: int = 0) -> GroupMapping:
    made = GroupMapping(mapping, groups, seed)
    made.bind(teachers)
    return made


@pytest.mark.parametrize(
    ('mapping', 'expected'),
    # Teacher 1 is the best, then 2, then 0.
    [('best_high', (0, 2, 1)), ('best_low', (2, 0, 1))],
)
def test_the_measured_order_maps_teachers_to_groups(
    mapping: str, expected: tuple[int, ...]
) -> None:
    made = bound(mapping)
    made.set_order([1, 2, 0])
    assert made.groups() == expected


def test_fewer_teachers_take_the_highest_groups() -> None:
    for mapping, expected in (('best_high', (3, 2)), ('best_low', (2, 3))):
        made = bound(mapping, teachers=2, groups=4)
        assert made.possible_groups(0) == (2, 3)
        made.set_order([0, 1])
        assert made.groups() == expected


def test_random_is_one_to_one_and_its_seeds_alone() -> None:
    mappings = {bound('random', seed=seed).groups() for seed in range(30)}
    assert mappings == {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    state = torch.get_rng_state()
    assert bound('random', seed=4).groups() == bound('random', seed=4).groups()
    assert torch.equal(state, torch.get_rng_state())


def test_explicit() -> None:
    made = bound([2, 0], teachers=2)
    assert made.groups() == (2, 0)
    made.set_order([1, 0])
    assert made.groups() == (2, 0), 'a measured order is not asked'


def test_one_teacher_needs_no_measurement() -> None:
    assert bound('best_high', teachers=1).groups() == bound('best_low', teachers=1).groups() == (2,)


def test_the_order_is_saved_and_restored() -> None:
    made, other = bound('best_high'), bound('best_high')
    made.set_order([1, 2, 0])
    other.set_order([0, 1, 2])
    assert other.groups() == (2, 1, 0)
    other.load_state_dict(made.state_dict())
    assert other.groups() == (0, 2, 1)


def test_a_measurement_that_never_came() -> None:
    with pytest.raises(
        ValueError,
        match=r"^mapping: expected measured teachers for 'best_high': add .*EvaluateTeachers",
    ):
        bound('best_high').groups()


@pytest.mark.parametrize('order', [[0, 1], [0, 0, 1], [1, 2, 3]])
def test_what_is_no_order(order: list[int]) -> None:
    with pytest.raises(ValueError, match=r'^order: expected a permutation of 3 teachers, got'):
        bound('best_high').set_order(order)


@pytest.mark.parametrize(
    ('mapping', 'teachers', 'message'),
    [
        (
            'best',
            3,
            r"^mapping: expected 'best_high', 'best_low', 'random' or a list of group indices, got 'best'",
        ),
        (3, 3, r'^mapping: expected .* got 3'),
        (
            'random',
            4,
            r'^student_groups: expected at least one group for each of 4 teachers, got 3 groups',
        ),
        ([0, 1, 1], 3, r'^mapping: expected 3 different indices below 3, got \[0, 1, 1\]'),
        ([0, 1], 3, r'^mapping: expected 3 different indices below 3, got \[0, 1\]'),
        ([0, 1, 3], 3, r'^mapping: expected 3 different indices below 3, got \[0, 1, 3\]'),
        ([0, 1, '2'], 3, r'^mapping: expected 3 different indices below 3, got'),
    ],
)
def test_mappings_that_do_not_fit(mapping: Any, teachers: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(mapping, teachers)
