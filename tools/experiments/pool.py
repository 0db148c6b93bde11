"""Trainings side by side, each in a process forked from one that has imported everything already."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """A piece of work whose output goes to ``log``."""

    name: str
    log: Path
    work: Callable[[], Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its result, or the last line of its log if it failed."""

    task: Task
    seconds: float
    result: Any = None
    failure: str | None = None


def run_forked(
    tasks: Iterable[Task | None], jobs: int, tick: Callable[[], object]
) -> Generator[Outcome, None, None]:
    """Run up to ``jobs`` tasks at once and give their outcomes as they come.

    A task is taken from ``tasks`` only when there is room for it. Whoever leaves the iteration, by Ctrl-C too, ends the
    tasks that are running. The calling process must have no thread of its own, for a fork copies only one.

    Args:
        tasks: What to do, in this order. None means not yet: they are asked again after the next tick.
        jobs: How many at once.
        tick: Called every second and after each outcome, for a progress bar.
    """
    context = multiprocessing.get_context('fork')
    waiting = iter(tasks)
    running: dict[Connection, tuple[Task, ForkProcess, float]] = {}
    try:
        while True:
            while len(running) < jobs and (task := next(waiting, None)) is not None:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(task, sender))
                process.start()
                sender.close()  # now the child alone holds it: its death ends the pipe
                running[receiver] = task, process, time.monotonic()
            if not running:
                return
            for ready in wait(list(running), timeout=1.0):
                assert isinstance(ready, Connection)
                yield _outcome(ready, *running.pop(ready))
            tick()
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()


def _outcome(receiver: Connection, task: Task, process: ForkProcess, began: float) -> Outcome:
    try:
        result, failure = receiver.recv(), None
    except EOFError:
        result, failure = None, 'died'
    receiver.close()
    process.join()
    if failure:
        lines = (
            task.log.read_text(errors='replace').strip().splitlines() if task.log.exists() else []
        )
        failure = lines[-1] if lines else f'exit code {process.exitcode}'
    return Outcome(task, time.monotonic() - began, result, failure)


def _work(task: Task, sender: Connection) -> None:
    """In the child: all output to the log, then the work. Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    log = task.log.open('w', buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    try:
        sender.send(task.work())
    except BaseException:
        traceback.print_exc()
        log.flush()
        os._exit(1)
