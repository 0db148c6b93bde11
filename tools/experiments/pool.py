"""Run trainings side by side, each in a process forked from one that has imported everything."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmkd_plugin import registry


@dataclass(frozen=True)
class Task:
    """A piece of work in a process of its own.

    Args:
        name: Name for messages.
        log: File for its output.
        work: Called in the process. It returns the result.
        steps: Number of training steps that its log will report; 0 if it trains nothing.
        unit: Name of these steps, such as ``'epochs'``.
    """

    name: str
    log: Path
    work: Callable[[], Any]
    steps: int = 0
    unit: str = 'steps'


@dataclass(frozen=True)
class Outcome:
    """The end of a task: its result, or the last line of its log if it failed."""

    task: Task
    seconds: float
    result: Any = None
    failure: str | None = None


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Exit by an exception on SIGTERM in the body, so that trainings are ended first.

    The handler of before is restored: a process that is forked later with a handler of Python can
    miss the signal by which ``multiprocessing.Pool`` ends it.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def default_jobs() -> int:
    """Return the number of cores that this process may use: one training for each."""
    return len(os.sched_getaffinity(0))


def preload(configs: Iterable[Config]) -> None:
    """Import what every training needs once, before the processes are forked.

    These are the hosts that ``default_scope`` names and this project's registered modules.
    """
    torch.set_num_threads(1)
    import_module('torch.utils.cpp_extension')  # each Runner reports its environment with it
    for host in {cfg.get('default_scope', 'mmengine') for cfg in configs} - {'mmengine'}:
        import_module(f'{host}.utils').register_all_modules(init_default_scope=False)
    for modules in (registry.MODELS, registry.DATASETS, registry.HOOKS, registry.LOOPS):
        modules.import_from_location()


def run_forked(
    tasks: Iterable[Task | None], jobs: int, tick: Callable[[Sequence[Task]], object]
) -> Generator[Outcome, None, None]:
    """Run up to ``jobs`` tasks at once and yield their outcomes as they end.

    A task is taken from ``tasks`` only when a job is free. Leaving the iteration ends the running
    tasks; Ctrl-C does too. The calling process must have one thread, because a fork copies only
    one.

    Args:
        tasks: The tasks in their order. None means that no task can begin yet: ``tasks`` is
            advanced again after the next tick.
        jobs: Number of tasks at once.
        tick: Called with the running tasks every second and after each outcome, to show progress.
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
                sender.close()  # only the child holds it now, so its death ends the pipe
                running[receiver] = task, process, time.monotonic()
            tick([task for task, _, _ in running.values()])
            if not running:
                return
            for ready in wait(list(running), timeout=1.0):
                assert isinstance(ready, Connection)
                yield _outcome(ready, *running.pop(ready))
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
        log = task.log.read_text(errors='replace') if task.log.exists() else ''
        lines = log.strip().splitlines()
        failure = lines[-1] if lines else f'exit code {process.exitcode}'
    return Outcome(task, time.monotonic() - began, result, failure)


def _work(task: Task, sender: Connection) -> None:
    """Run the task in the child with its output in the log. Ctrl-C is left to the parent."""
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
