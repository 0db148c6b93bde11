"""Bars on a terminal that show how far several trainings are, from their logs."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.demo.train import last_step, steps_of
from experiments.pool import Task
from mmkd_plugin.engine.stages import Stage


class Bars:
    """A bar for each training.

    Args:
        tasks: The trainings, whose logs are read.
        stages: Their configs, which say how many steps they have.
        console: Where the bars are; what :meth:`say` prints goes above them.
    """

    def __init__(
        self, tasks: Mapping[str, Task], stages: Mapping[str, Stage], console: Console
    ) -> None:
        columns = (
            TextColumn(f'{{task.description:<{max(map(len, tasks))}}}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[unit]}'),
            TimeElapsedColumn(),
        )
        self.ended: set[str] = set()
        self._progress = Progress(
            *columns, console=console, auto_refresh=False
        )  # no thread may be there at a fork
        self._logs = {name: task.log for name, task in tasks.items()}
        self._bars = {}
        for name in tasks:
            steps, unit = steps_of(stages[name].cfg)
            self._bars[name] = self._progress.add_task(name, total=steps, start=False, unit=unit)

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

    def look(self) -> None:
        """Read the logs."""
        for name in self._bars.keys() - self.ended:
            if self._logs[name].exists() and (step := last_step(self._logs[name])):
                self._progress.start_task(self._bars[name])
                self._progress.update(self._bars[name], completed=step)
        self._progress.refresh()

    def end(self, name: str) -> None:
        """This one is done."""
        bar = self._bars[name]
        self._progress.start_task(bar)
        self._progress.update(bar, completed=self._progress.tasks[bar].total)
        self._progress.stop_task(bar)
        self.ended.add(name)

    def say(self, line: str) -> None:
        """Print above the bars."""
        self._progress.console.print(line)
