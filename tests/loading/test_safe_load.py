"""Types that torch may read in a Runner's checkpoint; none stays allowed afterwards."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import nn
from torch.serialization import add_safe_globals, get_safe_globals, safe_globals

from mmkd_plugin.loading.safe_load import runner_checkpoints_allowed

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _globals_of_torch() -> Iterator[None]:
    before = get_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    add_safe_globals(before)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The parts of a Runner's checkpoint that torch refuses by default."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    schedules = [
        OneCycleLR(optimizer, eta_max=0.2, total_steps=9, anneal_strategy=curve)
        for curve in ('cos', 'linear')
    ]
    logged: dict[str, Any] = {
        'train/loss': HistoryBuffer([1.0, 3.0], [1, 1]),
        'lr': np.float64(0.1),
        'flag': np.bool_(True),
        'steps': np.arange(2),
    }
    schedule_states = [schedule.state_dict() for schedule in schedules]
    torch.save(dict(message_hub=logged, param_schedulers=schedule_states), tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


def can_read(path: Path) -> bool:
    """Whether the checkpoint is read, and read rightly."""
    try:
        content = torch.load(path, weights_only=True)
    except Exception:
        return False
    logged, schedules = content['message_hub'], content['param_schedulers']
    assert (logged['train/loss'].mean(), logged['lr'], logged['flag']) == (2.0, 0.1, True)
    assert logged['steps'].tolist() == [0, 1]
    curves = [OneCycleLR._annealing_cos, OneCycleLR._annealing_linear]
    assert [schedule['anneal_func'] for schedule in schedules] == curves
    return True


def test_a_runners_checkpoint_is_read_in_the_body_alone(checkpoint: Path) -> None:
    assert not can_read(checkpoint)
    with runner_checkpoints_allowed():
        assert can_read(checkpoint)
    assert not can_read(checkpoint)


def test_importing_every_part_of_the_package_allows_nothing() -> None:
    program = (
        'import mmengine.runner, torch, torch._dynamo, torch.distributed.tensor\n'
        'before = set(torch.serialization.get_safe_globals())\n'
        'import mmkd_plugin.engine.stages, mmkd_plugin.loading.export\n'
        'from mmkd_plugin.registry import HOOKS, LOOPS, MODELS\n'
        'for registry in (HOOKS, LOOPS, MODELS):\n'
        '    registry.import_from_location()\n'
        'added = set(torch.serialization.get_safe_globals()) - before\n'
        'assert not added, added\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr


def fork_loads(path: Path) -> bool:
    """Load as onedl-mmengine 0.10.12 does: its context removes the types that it names."""
    named = [slice, getattr, np.ndarray, np.dtype, HistoryBuffer, type(np.dtype(np.float64))]
    with safe_globals(named):
        return can_read(path)


def test_a_fork_that_removes_types_inside_leaves_them_allowed(checkpoint: Path) -> None:
    with runner_checkpoints_allowed():
        assert fork_loads(checkpoint)
        assert can_read(checkpoint), 'the end of the inner context removed types of the outer one'


def test_bare_types_would_not_survive_the_fork(checkpoint: Path) -> None:
    """The control: as it would be if the types were allowed without a name beside them."""
    with runner_checkpoints_allowed():
        allowed = [*get_safe_globals()]
    kinds = [
        entry[0] if isinstance(entry[0], type) else entry
        for entry in allowed
        if isinstance(entry, tuple)
    ]
    with safe_globals(kinds):
        assert can_read(checkpoint)
        fork_loads(checkpoint)
        assert not can_read(checkpoint)


def test_nested_uses_leave_the_outer_one_in_force(checkpoint: Path) -> None:
    with runner_checkpoints_allowed():
        with runner_checkpoints_allowed():
            assert can_read(checkpoint)
        assert can_read(checkpoint)
    assert not can_read(checkpoint)


class Mine:
    """A type that a user allowed."""


class Theirs:
    """A type that a package allows when it is imported."""


@pytest.mark.parametrize('fails', [False, True])
def test_the_list_afterwards_is_the_one_before_and_what_others_added(fails: bool) -> None:
    add_safe_globals([Mine, HistoryBuffer])
    before = get_safe_globals()
    try:
        with runner_checkpoints_allowed():
            with safe_globals([Mine, HistoryBuffer]):
                pass
            assert Mine not in get_safe_globals()
            add_safe_globals([Theirs])
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert Counter(map(str, get_safe_globals())) == Counter(map(str, [*before, Theirs]))


class Names:
    """A pickle of it calls ``getattr(owner, name)`` when it is read."""

    def __init__(self, owner: Any, name: str) -> None:
        self.arguments = owner, name

    def __reduce__(self) -> Any:
        return getattr, self.arguments


@pytest.mark.parametrize(
    ('owner', 'name'),
    [
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, 'update'),
        (OneCycleParamScheduler, '__init__'),
        (torch.Tensor, 'mean'),
    ],
)
def test_getattr_returns_the_statistics_of_a_history_and_the_curves_alone(
    tmp_path: Path, owner: type, name: str
) -> None:
    with safe_globals([torch.Tensor]), runner_checkpoints_allowed():
        torch.save(dict(a=Names(owner, name)), tmp_path / 'a.pth')
        with pytest.raises(Exception, match=f"may not read the attribute '{name}'"):
            torch.load(tmp_path / 'a.pth', weights_only=True)
