import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from experiments.pool import Task, run_forked


def idle() -> None:
    pass


def task(folder: Path, name: str, work: object) -> Task:
    return Task(name, folder / f'{name}.log', work)  # type: ignore[arg-type]


def say_and_square(number: int) -> int:
    print(f'squaring {number}')
    os.system(f'echo from a shell: {number}')
    return number * number


def fail() -> None:
    print('so far, so good')
    raise ValueError('this was wrong')


def test_results_come_back_and_output_goes_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [task(tmp_path, str(number), partial(say_and_square, number)) for number in range(5)]
    outcomes = {outcome.task.name: outcome.result for outcome in run_forked(tasks, 2, idle)}
    assert outcomes == {str(number): number * number for number in range(5)}
    assert (tmp_path / '3.log').read_text() == 'squaring 3\nfrom a shell: 3\n'
    assert capfd.readouterr() == ('', '')


def test_a_failure_is_told_with_its_last_line_and_stops_nobody_else(tmp_path: Path) -> None:
    tasks = [task(tmp_path, 'bad', fail), task(tmp_path, 'good', partial(say_and_square, 2))]
    bad, good = run_forked(tasks, 1, idle)
    assert bad.failure == 'ValueError: this was wrong'
    assert 'so far, so good' in bad.task.log.read_text()
    assert (good.failure, good.result) == (None, 4)


def test_a_killed_task_is_a_failure(tmp_path: Path) -> None:
    (outcome,) = run_forked([task(tmp_path, 'killed', kill_myself)], 1, idle)
    assert outcome.failure == 'exit code -9'


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_tasks_are_isolated(tmp_path: Path) -> None:
    def leave_a_trace() -> int:
        sys.trace = getattr(sys, 'trace', 0) + 1  # type: ignore[attr-defined]
        return sys.trace  # type: ignore[attr-defined]

    outcomes = run_forked([task(tmp_path, str(i), leave_a_trace) for i in range(3)], 1, idle)
    assert [outcome.result for outcome in outcomes] == [1, 1, 1]
    assert not hasattr(sys, 'trace')


def test_as_many_at_once_as_told(tmp_path: Path) -> None:
    began = time.monotonic()
    outcomes = list(
        run_forked([task(tmp_path, str(i), partial(time.sleep, 0.5)) for i in range(4)], 4, idle)
    )
    assert time.monotonic() - began < 1.5
    assert len(outcomes) == 4


def test_a_task_may_wait_for_another(tmp_path: Path) -> None:
    ended: list[str] = []

    def tasks() -> Iterator[Task | None]:
        yield task(tmp_path, 'first', partial(time.sleep, 0.3))
        while not ended:
            yield None
        yield task(tmp_path, 'second', idle)

    for outcome in run_forked(tasks(), 2, idle):
        ended.append(outcome.task.name)
    assert ended == ['first', 'second']


def test_leaving_ends_what_is_running(tmp_path: Path) -> None:
    def write_late() -> None:
        time.sleep(2)
        (tmp_path / 'late').touch()

    outcomes = run_forked(
        [task(tmp_path, 'quick', idle), task(tmp_path, 'slow', write_late)], 2, idle
    )
    next(outcomes)
    outcomes.close()  # as an exception in the loop, or Ctrl-C, does
    time.sleep(2.5)
    assert not (tmp_path / 'late').exists()
