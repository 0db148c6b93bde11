"""Two gloo processes train several networks as one process does."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import classification as tiny
from helpers import processes

pytestmark = pytest.mark.slow


def methods(distance: str) -> dict[str, Any]:
    """Return deep mutual learning and IE-KD by a distance.

    Through BatchNorm at batch 8, IE-KD's usual weights of 50 let a rounding error grow a
    thousandfold within four steps; weights of 5 do not.
    """
    changes = dict(inherit_weight=5.0, explore_weight=5.0)
    changes |= dict(inherit_distance=distance, explore_distance=distance)
    return dict(dml=dict(type='SoftTarget', temperature=1.0), **tiny.inherit_explore(**changes))


#: Arguments of ``train_peers``. L1 is compared over one step: later its gradient can jump between
#: two runs that differ by rounding, where a difference of two factors is near 0.
CASES: dict[str, dict[str, Any]] = {
    **{
        f'{order}, {norm}, {distance}': dict(
            config=tiny.mutual_config(order=order, methods=methods(distance)),
            iters=iters,
            frozen=norm == 'frozen',
        )
        for order in ('alternating', 'simultaneous')
        for norm in ('frozen', 'synchronised')
        for distance, iters in (('l2', 3), ('l1', 1))
    },
    'three peers': dict(config=tiny.mutual_config(*'abc'), iters=3, frozen=True),
    'accumulated': dict(
        config=tiny.mutual_config(methods=methods('l2')),
        iters=4,
        frozen=True,
        optim=dict(accumulative_counts=2, clip_grad=dict(max_norm=0.5)),
    ),
}
#: (rtol, atol), by whether BatchNorm is frozen; rounding errors take up at most 1/20 of them.
TOLERANCES = {True: (3e-5, 3e-7), False: (1e-4, 1e-6)}
CONTROLS = [
    (case, part)
    for case in ('simultaneous, frozen, l2', 'simultaneous, synchronised, l2')
    for part in ('.network.', '.methods.', '.auxiliary.')
]
WRAPPERS = ('MMDistributedDataParallel', 'MMSeparateDistributedDataParallel')

Run = dict[str, Any]


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the results of both processes, which are started once for all tests."""
    calls: processes.Calls = {
        name: (partial(processes.train_peers, **case),) for name, case in CASES.items()
    }
    for name, part in CONTROLS:
        change = partial(processes.scale_gradients, part=part, scale=1.001)
        calls[f'{name}{part}'] = (partial(processes.train_peers, **CASES[name], change=change),)
    for wrapper in WRAPPERS:
        calls[wrapper] = (processes.refuse_peers, tiny.mutual_config(), wrapper)
    return processes.in_two(tmp_path_factory.mktemp('peers'), calls)


@pytest.fixture(scope='module')
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Return the results of one process with the whole batch."""
    folder = tmp_path_factory.mktemp('alone')
    return {name: processes.train_peers(folder / name, **case) for name, case in CASES.items()}


def excess(found: Run, expected: Run, case: str) -> float:
    """Return the largest difference of two last states, in units of the tolerance."""
    rtol, atol = TOLERANCES[CASES[case]['frozen']]
    return processes.excess(found['state'], expected['state'], rtol, atol)


@pytest.mark.parametrize('case', CASES)
def test_two_processes_equal_one_with_the_whole_batch(
    ranks: list[dict[str, Any]], alone: dict[str, Run], case: str
) -> None:
    expected = alone[case]
    assert expected['wrapper'] == 'MutualDistiller'
    for rank in ranks:
        found = rank[case]
        assert found['wrapper'] == 'PeerDataParallel'
        assert excess(found, expected, case) <= 1
        assert found['metrics'] == pytest.approx(expected['metrics'], abs=1e-4)
        assert found['saved'] == expected['saved'], 'a checkpoint of two processes is one of one'


@pytest.mark.parametrize(('case', 'part'), CONTROLS)
def test_gradients_that_are_a_thousandth_off_in_one_process_fail_the_comparison(
    ranks: list[dict[str, Any]], alone: dict[str, Run], case: str, part: str
) -> None:
    """The control: it would fail by far if the gradients of a part were not averaged."""
    for rank in ranks:
        assert excess(rank[f'{case}{part}'], alone[case], case) > 4


@pytest.mark.parametrize('sample', [1, 2, 3])
@pytest.mark.parametrize('case', CASES)
def test_compared_runs_let_noise_stay_small(
    alone: dict[str, Run], case: str, sample: int, tmp_path: Path
) -> None:
    """Noise is ten times as large as rounding errors, which hence cross no kink on any machine."""
    change = partial(processes.add_noise, noise=1e-6, seed=sample)
    noisy = processes.train_peers(tmp_path, **CASES[case], change=change)
    assert processes.excess(noisy['state'], alone[case]['state'], rtol=0, atol=1e-6) > 1
    assert processes.excess(noisy['state'], alone[case]['state'], rtol=0, atol=1e-5) <= 1


def test_l1_over_four_steps_lets_noise_grow(tmp_path: Path) -> None:
    """The control: this case passes on some machines, and fails on others by rounding.

    It takes several samples of noise, because one may leave all values on their side of a kink.
    """
    config = tiny.mutual_config(order='simultaneous', methods=methods('l1'))
    case: dict[str, Any] = dict(config=config, iters=4, frozen=False, seed=7)
    plain = processes.train_peers(tmp_path / 'plain', **case)
    grown = []
    for sample in range(1, 7):
        change = partial(processes.add_noise, noise=1e-6, seed=sample)
        noisy = processes.train_peers(tmp_path / str(sample), **case, change=change)
        grown.append(processes.excess(noisy['state'], plain['state'], rtol=0, atol=1e-5))
    assert max(grown) > 20


def test_the_ranks_end_with_equal_weights(ranks: list[dict[str, Any]]) -> None:
    one, other = ranks
    for case in CASES:
        names = tiny.differing(one[case]['state'], other[case]['state'])
        assert not [name for name in names if 'running' not in name], case


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_another_wrapper_raises_before_the_first_step(
    ranks: list[dict[str, Any]], wrapper: str
) -> None:
    key, found, fix = ranks[0][wrapper]
    assert (key, found) == ('model_wrapper_cfg', repr(wrapper))
    assert "dict(type='mmkd_plugin.PeerDataParallel')" in fix
