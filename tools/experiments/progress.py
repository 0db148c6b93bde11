"""Report the progress of long commands: all the time on a terminal, in a log once a minute."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from experiments.pool import Task

MINUTE = 60.0
Clock = Callable[[], float]


class Heartbeat:
    """Print a line once a minute, however often it is called.

    Args:
        say: Prints a line.
        clock: Returns seconds.
    """

    def __init__(self, say: Callable[[str], object], clock: Clock = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._next = clock() + MINUTE

    def beat(self, line: Callable[[], str]) -> None:
        """Print ``line()`` if the last line is a minute old."""
        if self._clock() >= self._next:
            self._next = self._clock() + MINUTE
            self._say(line())


class TrainingProgress:
    """Show the progress of several trainings, from their logs, and estimate the time left.

    A terminal shows a bar for each running training and one for all. A log gets a line a minute.

    Args:
        name: Name of the whole.
        steps: Number of steps of each training that is still to be done.
        console: Console for bars and lines.
        clock: Returns seconds.
    """

    def __init__(
        self, name: str, steps: Iterable[int], console: Console, clock: Clock = time.monotonic
    ) -> None:
        self._name, self._total, self._clock = name, sum(steps), clock
        self._began = clock()
        self._console = console
        self._heart = Heartbeat(self._print, clock)
        self._running: dict[str, tuple[Steps, Task]] = {}
        self._ended = self._before = 0.0
        columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[state]}')
        self._progress = Progress(
            *columns,
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,  # a thread must not be there when trainings are forked
            disable=not console.is_terminal or console.is_dumb_terminal,
        )
        self._whole = self._progress.add_task(name, total=self._total, state='')
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def tick(self, running: Sequence[Task]) -> None:
        """Read the logs of the running tasks, and show what they report."""
        self._running = {task.name: (read_steps(task.log), task) for task in running}
        if self._progress.disable:
            self._heart.beat(self.line)
            return
        for name, (steps, task) in self._running.items():
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=task.steps, state='')
            state = _state(steps, task)
            self._progress.update(self._bars[name], completed=steps.done, state=state)
        done = sum(self._done())
        self._progress.update(self._whole, completed=done, state=self._left())
        self._progress.refresh()

    def end(self, task: Task, result: str) -> None:
        """Count a task as done, and print its result."""
        steps = read_steps(task.log)
        before = steps.before if steps.done else task.steps  # without a report it was done before
        self._before += before
        self._ended += task.steps - before
        self._running.pop(task.name, None)
        if task.name in self._bars:
            self._progress.remove_task(self._bars.pop(task.name))
        self._print(f'{task.name}: {result}')

    def line(self) -> str:
        """Return what a log gets every minute: the share that is done, the time left, what runs."""
        share = sum(self._done()) / self._total if self._total else 1.0
        elapsed = duration(self._clock() - self._began)
        running = ', '.join(
            f'{name} ({_state(steps, task)})' for name, (steps, task) in self._running.items()
        )
        left = f'{share:.0%} after {elapsed}, {self._left()}'
        return f'{self._name}: {left}. Running: {running or "nothing"}'

    def _done(self) -> tuple[float, float]:
        """Return the steps that this run has done, and those that an earlier one had done."""
        now, before = self._ended, self._before
        for steps, _ in self._running.values():
            now += max(0.0, steps.done - steps.before)
            before += steps.before
        return now, before

    def _left(self) -> str:
        now, before = self._done()
        if not now:
            return 'time left not known yet'
        seconds = (self._clock() - self._began) * (self._total - before - now) / now
        return f'about {duration(max(0.0, seconds))} left'

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def steps_of(cfg: Config) -> tuple[int, str]:
    """Return the number of steps that a training reports in its log, and their unit."""
    if 'max_epochs' in cfg.train_cfg:
        return cfg.train_cfg.max_epochs, 'epochs'
    return cfg.train_cfg.max_iters, 'iterations'


class Steps(NamedTuple):
    """Epochs or iterations in the log of a training, and those that an interrupted run had done."""

    done: float = 0.0
    before: float = 0.0


def read_steps(log: Path) -> Steps:
    """Return the epochs or iterations that a training reports in its log.

    An epoch counts in part: iteration 10 of 40 in epoch 3 is 2.25 epochs.
    """
    text = log.read_text(errors='replace') if log.exists() else ''
    epochs = re.findall(r'Epoch\(train\)\s+\[\s*(\d+)\]\[\s*(\d+)/\s*(\d+)\]', text)
    iterations = re.findall(r'Iter\(train\)\s+\[\s*(\d+)/', text)
    resumed = re.search(r'resumed epoch: (\d+), iter: (\d+)', text)
    if epochs:
        epoch, iteration, length = map(int, epochs[-1])
        return Steps(epoch - 1 + iteration / length, float(resumed[1]) if resumed else 0.0)
    if iterations:
        return Steps(float(iterations[-1]), float(resumed[2]) if resumed else 0.0)
    return Steps()


def duration(seconds: float) -> str:
    """Return a duration as a person would give it.

    Example:
        >>> [duration(seconds) for seconds in (42, 400, 9000)]
        ['42 s', '7 min', '2.5 h']
    """
    if seconds < 100:
        return f'{seconds:.0f} s'
    minutes = seconds / 60
    return f'{minutes:.0f} min' if minutes < 100 else f'{minutes / 60:.1f} h'


def _state(steps: Steps, task: Task) -> str:
    return f'{int(steps.done)} of {task.steps} {task.unit}' if task.steps else 'no steps'
