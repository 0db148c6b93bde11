"""Seeds of views."""

import itertools
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from mmkd_plugin.replay.seeds import seed_of, seeded


def draw() -> tuple[Any, ...]:
    return (
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        torch.rand(2).tolist(),
        torch.randperm(5).tolist(),
    )


def test_seed_of_is_equal_in_a_process_with_another_hash_seed() -> None:
    code = 'from mmkd_plugin.replay.seeds import seed_of; print(seed_of(3, 70000, 49))'
    shown = {
        subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', code],
            env={'PYTHONHASHSEED': hash_seed, 'PYTHONPATH': ':'.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ('1', '2')
    }
    assert shown == {f'{seed_of(3, 70000, 49)}\n'}


def test_seed_of_differs_for_every_seed_index_and_view() -> None:
    seeds = [seed_of(*numbers) for numbers in itertools.product(range(8), range(40), range(8))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 64 for seed in seeds)
    assert max(seeds) > 1 << 63  # all bits are used


@pytest.mark.parametrize('seed', [0, 1, (1 << 32) - 1, 1 << 32, (1 << 64) - 1])
def test_seeded_draws_the_same_and_restores_all_three_states(seed: int) -> None:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    with seeded(seed):
        first = draw()
    assert random.getstate() == states[0]
    assert all(map(np.array_equal, np.random.get_state(), states[1]))
    assert torch.equal(torch.get_rng_state(), states[2])
    draw()
    with seeded(seed):
        assert draw() == first


def test_normal_number_that_numpy_holds_ready_is_drawn_anew() -> None:
    np.random.seed(3)
    uniform = np.random.RandomState(3)
    np.random.randn(), uniform.randn()  # each holds a second number ready
    with seeded(1):
        np.random.randn()
    uniform.randn()  # takes it
    assert np.random.randn() == uniform.randn()


@pytest.mark.parametrize('other', [1 << 40, (1 << 40) + 1, 5])
def test_seeded_draws_other_numbers_from_each_generator_for_another_seed(other: int) -> None:
    with seeded(7):
        first = draw()
    with seeded(other):
        assert all(one != two for one, two in zip(draw()[:5], first, strict=False))


def test_seeded_restores_the_states_after_an_error() -> None:
    expected = torch.get_rng_state(), random.getstate()
    with pytest.raises(KeyError), seeded(3):
        raise KeyError(draw())
    assert torch.equal(torch.get_rng_state(), expected[0]) and random.getstate() == expected[1]


def test_seeded_nested_restores_the_outer_draws() -> None:
    with seeded(1):
        expected = [draw(), draw()]
    with seeded(1):
        first = draw()
        with seeded(2):
            draw()
        assert [first, draw()] == expected
