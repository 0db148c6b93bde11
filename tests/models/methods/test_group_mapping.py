from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error

from mmkd_plugin.models.methods.group_mapping import GroupMapping


def build(mapping: Any, teachers: int = 3, groups: int = 3, seed: int = 0) -> GroupMapping:
    made = GroupMapping(mapping, groups, seed)
    made.build(teachers)
    return made


@pytest.mark.parametrize(
    ('mapping', 'expected'),
    # Teacher 1 is the best, then 2, then 0.
    [('best_high', (0, 2, 1)), ('best_low', (2, 0, 1))],
)
def test_measured_order_maps_teachers_to_groups(mapping: str, expected: tuple[int, ...]) -> None:
    made = build(mapping)
    assert made.needs_order
    made.set_order([1, 2, 0])
    assert made.groups() == expected


@pytest.mark.parametrize(('mapping', 'expected'), [('best_high', (3, 2)), ('best_low', (2, 3))])
def test_fewer_teachers_than_groups_take_the_highest_groups(
    mapping: str, expected: tuple[int, ...]
) -> None:
    made = build(mapping, teachers=2, groups=4)
    assert made.possible_groups(0) == (2, 3)
    made.set_order([0, 1])
    assert made.groups() == expected


def test_random_mapping_is_one_to_one_and_depends_on_the_seed_alone() -> None:
    mappings = {build('random', seed=seed).groups() for seed in range(30)}
    assert mappings == {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}
    state = torch.get_rng_state()
    assert build('random', seed=4).groups() == build('random', seed=4).groups()
    assert torch.equal(state, torch.get_rng_state())


def test_explicit_mapping_does_not_depend_on_a_measured_order() -> None:
    made = build([2, 0], teachers=2)
    assert not made.needs_order
    assert made.groups() == (2, 0)
    assert [made.possible_groups(teacher) for teacher in (0, 1)] == [(2,), (0,)]
    made.set_order([1, 0])
    assert made.groups() == (2, 0)


def test_one_teacher_needs_no_measurement() -> None:
    assert build('best_high', teachers=1).groups() == build('best_low', teachers=1).groups() == (2,)


def test_order_is_saved_and_restored() -> None:
    made, other = build('best_high'), build('best_high')
    made.set_order([1, 2, 0])
    other.set_order([0, 1, 2])
    assert other.groups() == (2, 1, 0)
    other.load_state_dict(made.state_dict())
    assert other.groups() == (0, 2, 1)


def test_groups_without_a_measurement_name_the_hook() -> None:
    fix = "Add custom_hooks=[dict(type='mmkd_plugin.EvaluateTeachers')]"
    with raises_config_error('mapping', 'best_high', 'measured teachers', fix=fix):
        build('best_high').groups()


@pytest.mark.parametrize('order', [[0, 1], [0, 0, 1], [1, 2, 3]])
def test_set_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match='is no permutation of 3 teachers') as caught:
        build('best_high').set_order(order)
    assert str(order) in str(caught.value)


@pytest.mark.parametrize('mapping', ['best', 3, None, dict()])
def test_mapping_that_is_neither_word_nor_list_is_refused(mapping: Any) -> None:
    words = "'best_high', 'best_low', 'random'"
    with raises_config_error('mapping', mapping, words, 'list of group indices'):
        GroupMapping(mapping, 3)


@pytest.mark.parametrize('mapping', [[0, 1, 1], [0, 1], [0, 1, 3], [0, 1, -1], [0, 1, '2']])
def test_mapping_that_is_not_one_to_one_is_refused(mapping: list[Any]) -> None:
    with raises_config_error('mapping', mapping, '3 different indices below 3'):
        build(mapping)


@pytest.mark.parametrize('mapping', ['random', 'best_high', [0, 1, 2, 3]])
def test_more_teachers_than_groups_are_refused(mapping: Any) -> None:
    with raises_config_error('student_groups', 3, 'one group for each of 4 teachers'):
        build(mapping, teachers=4)
