"""Runs with stores that are killed, share a store, or cannot write it."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import processes, replayed
from helpers.errors import ANY, raises_config_error
from helpers.replayed import EXACT, Case, no_network
from torch import multiprocessing

from mmkd_plugin.replay import store as module

SPAWN = multiprocessing.get_context('spawn')


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('writing', [False, True], ids=['between steps', 'in the middle of rows'])
@pytest.mark.parametrize('step', [0, 1, 3, 5])
def test_run_that_was_killed_while_it_filled_stores_ends_as_one_without(
    step: int, writing: bool, case: Case
) -> None:
    plain, _ = case.run('plain')
    other = SPAWN.Process(
        target=replayed.train_and_die, args=(case.folder, case.teachers, step, writing)
    )
    other.start()
    other.join()
    assert other.exitcode == -signal.SIGKILL
    resumed, _ = case.run('cut', EXACT, resume=True)
    assert not tiny.differing(plain, resumed)
    case.run('fill the rest', EXACT)
    with no_network():
        read, _ = case.run('read', EXACT)
    assert not tiny.differing(plain, read)


@pytest.mark.slow
def test_two_runs_that_fill_one_store_at_once_end_as_those_without(case: Case) -> None:
    started = []
    for name, seed in (('one', 3), ('other', 4)):
        args = case.folder, case.teachers, name, seed
        started.append(SPAWN.Process(target=replayed.train_and_save, args=args))
        started[-1].start()
    for one in started:
        one.join()
        assert one.exitcode == 0
    for name, seed in (('one', 3), ('other', 4)):
        plain, _ = case.run(f'plain {seed}', randomness=dict(seed=seed))
        assert not tiny.differing(plain, torch.load(case.folder / f'{name}.pt'))
    with no_network():
        case.run('read', EXACT)


@pytest.mark.slow
def test_two_processes_of_a_run_fill_and_read_the_stores(case: Case, tmp_path: Path) -> None:
    def call(replay: Any) -> tuple[Any, ...]:
        return replayed.train_in_two, case.folder, case.teachers, replay

    calls = dict(plain=call(None), filled=call(EXACT), read=call(EXACT))
    (tmp_path / 'two').mkdir()
    for rank in processes.in_two(tmp_path / 'two', calls):
        plain, filled, read = (rank[name] for name in calls)
        assert not tiny.differing(plain['weights'], filled['weights'])
        assert not tiny.differing(plain['weights'], read['weights'])
        assert read['stored'] and not filled['stored']


@pytest.mark.parametrize('epochs', [1, 3], ids=['begun', 'full'])
def test_run_on_a_store_that_cannot_be_written_reads_it_and_computes_the_rest(
    epochs: int, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = case.run('plain')
    case.run('filled', EXACT, epochs=epochs)
    before = {path.name: path.read_bytes() for path in (case.folder / 'store0').iterdir()}
    monkeypatch.setattr(module, '_writable', lambda _: False)
    found, model = case.run('read', EXACT)
    assert not tiny.differing(plain, found)
    assert model.teachers[0].stored == (epochs == 3)
    assert {path.name: path.read_bytes() for path in (case.folder / 'store0').iterdir()} == before


def test_run_whose_disk_is_full_stops_before_the_first_update(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.posix_fallocate

    def allocate(handle: int, offset: int, length: int) -> None:
        if 'store1' in os.readlink(f'/proc/self/fd/{handle}'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, offset, length)

    monkeypatch.setattr(os, 'posix_fallocate', allocate)
    steps: list[int] = []
    with raises_config_error(
        'teachers[1] (t1).replay.path', ANY, os.strerror(errno.ENOSPC), 'views x'
    ):
        case.run('full', EXACT, hooks=[replayed.Steps(steps)])
    assert not steps
    assert not list((case.folder / 'store1').glob('*.bin'))
