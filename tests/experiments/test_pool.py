"""The pool of forked processes. Events and barriers, not clocks, order what happens."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import BrokenBarrierError

import pytest
from experiments.pool import Task, run_forked, sigterm_exits

FORK = multiprocessing.get_context('fork')


def idle(running: Sequence[Task] = ()) -> None:
    pass


def task(folder: Path, name: str, work: Callable[[], object]) -> Task:
    return Task(name, folder / f'{name}.log', work)


def print_and_square(number: int) -> int:
    print(f'squaring {number}')
    os.system(f'echo from a shell: {number}')
    return number * number


def fail() -> None:
    print('so far, so good')
    raise ValueError('this was wrong')


@pytest.fixture
def children() -> Iterator[Callable[[], set[int]]]:
    """The processes that a test has started and that still run. None is left behind."""
    before = {child.pid for child in multiprocessing.active_children()}

    def children() -> set[int]:
        pids = {child.pid for child in multiprocessing.active_children()}
        return {pid for pid in pids - before if pid is not None}

    yield children
    for pid in children():
        os.kill(pid, signal.SIGKILL)


def test_run_forked_returns_results_and_writes_output_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [task(tmp_path, str(number), partial(print_and_square, number)) for number in range(5)]
    outcomes = {outcome.task.name: outcome.result for outcome in run_forked(tasks, 2, idle)}
    assert outcomes == {str(number): number * number for number in range(5)}
    assert (tmp_path / '3.log').read_text() == 'squaring 3\nfrom a shell: 3\n'
    assert capfd.readouterr() == ('', '')


def test_run_forked_failed_task_gives_its_last_line_and_the_others_run(tmp_path: Path) -> None:
    tasks = [task(tmp_path, 'bad', fail), task(tmp_path, 'good', partial(print_and_square, 2))]
    bad, good = run_forked(tasks, 1, idle)
    assert bad.failure == 'ValueError: this was wrong'
    assert 'so far, so good' in bad.task.log.read_text()
    assert (good.failure, good.result) == (None, 4)


def test_run_forked_killed_task_is_a_failure(tmp_path: Path) -> None:
    def kill_myself() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    (outcome,) = run_forked([task(tmp_path, 'killed', kill_myself)], 1, idle)
    assert outcome.failure == 'exit code -9'


def test_run_forked_tasks_share_no_state(tmp_path: Path) -> None:
    def leave_a_trace() -> int:
        sys.trace = getattr(sys, 'trace', 0) + 1  # type: ignore[attr-defined]
        return sys.trace  # type: ignore[attr-defined]

    outcomes = run_forked([task(tmp_path, str(i), leave_a_trace) for i in range(3)], 1, idle)
    assert [outcome.result for outcome in outcomes] == [1, 1, 1]
    assert not hasattr(sys, 'trace')


def test_run_forked_four_jobs_run_four_tasks_at_once(tmp_path: Path) -> None:
    """Each task waits for all four. If fewer run, none can end, and the first tick breaks them."""
    barrier, ended = FORK.Barrier(4), []

    def tick(running: Sequence[Task]) -> None:
        if not ended and len(running) < 4:
            barrier.abort()

    for outcome in run_forked(
        [task(tmp_path, str(i), barrier.wait) for i in range(4)], jobs=4, tick=tick
    ):
        ended.append(outcome)
    assert [outcome.failure for outcome in ended] == [None] * 4
    assert sorted(outcome.result for outcome in ended) == [0, 1, 2, 3]


def test_run_forked_two_jobs_cannot_bring_four_tasks_together(tmp_path: Path) -> None:
    """The control of the test above."""
    barrier = FORK.Barrier(4)
    tasks = [task(tmp_path, str(i), barrier.wait) for i in range(4)]
    outcomes = list(run_forked(tasks, jobs=2, tick=lambda running: barrier.abort()))
    assert all(BrokenBarrierError.__name__ in str(outcome.failure) for outcome in outcomes)


@pytest.mark.parametrize('jobs', [1, 2, 3])
def test_run_forked_blocked_tasks_have_one_process_a_job(
    tmp_path: Path, jobs: int, children: Callable[[], set[int]]
) -> None:
    """No task ends before the first tick, so all that have begun are there to be counted."""
    release, counts = FORK.Event(), []

    def tick(running: Sequence[Task]) -> None:
        counts.append((len(running), len(children())))
        release.set()

    tasks = [task(tmp_path, str(i), release.wait) for i in range(4)]
    assert [outcome.failure for outcome in run_forked(tasks, jobs, tick)] == [None] * 4
    assert counts[0] == (jobs, jobs)
    assert max(counts) == (jobs, jobs)


def test_run_forked_a_task_that_is_not_ready_is_asked_for_again(tmp_path: Path) -> None:
    release = FORK.Event()
    events: list[str] = []

    def tasks() -> Iterator[Task | None]:
        yield task(tmp_path, 'first', release.wait)
        while 'first' not in events:
            events.append('not ready')
            yield None
        yield task(tmp_path, 'second', idle)

    def tick(running: Sequence[Task]) -> None:
        events.append('tick')
        release.set()

    for outcome in run_forked(tasks(), 2, tick):
        events.append(outcome.task.name)
    assert events[:2] == ['not ready', 'tick'], 'the free job asked at once'
    assert [event for event in events if event in ('first', 'second')] == ['first', 'second']


def test_run_forked_left_early_ends_the_running_tasks(
    tmp_path: Path, children: Callable[[], set[int]]
) -> None:
    """Leaving is what an exception in the loop does, and Ctrl-C."""
    never = FORK.Event()
    outcomes = run_forked(
        [task(tmp_path, 'quick', idle), task(tmp_path, 'blocked', never.wait)], 2, idle
    )
    assert next(outcomes).task.name == 'quick'
    assert len(children()) == 1
    outcomes.close()
    assert children() == set()


def test_sigterm_handler_of_before_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, sigterm_exits():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
