"""Ratios within one run: tasks take turns, so a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS = Path('/proc/self/status')  # Linux's word on a process's memory


def _unwatched(number: int, rounds: int) -> None:
    pass


#: Called before each round with its number; tools/benchmark.py reports progress with it.
on_round: Callable[[int, int], object] = _unwatched


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Args:
        name: Name of the measured ratio or amount.
        value: The number; None if it cannot be measured here.
        shown: The number as people read it, with its range if it has one.
        bound: The project's promise, in words; empty if there is none.
        met: Whether the promise is kept; None if there is none.
    """

    name: str
    value: float | None
    shown: str
    bound: str = ''
    met: bool | None = None


def seconds_in_turns(
    tasks: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each task in each round.

    One round before them is not counted, and another task begins every round. With a single thread
    these are seconds of CPU time of the process, so other processes do not count.
    """
    alone = device.type == 'cpu' and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    names = list(tasks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, repeats):
        on_round(turn + 2, repeats + 1)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            _finish(device)
            start = clock()
            tasks[name]()
            _finish(device)
            if turn >= 0:
                seconds[name].append(clock() - start)
    return seconds


def _finish(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def ratio(
    name: str, rounds: Sequence[float], at_most: float | None = None, at_least: float | None = None
) -> Result:
    """Return the median, smallest and largest ratio of the rounds, against a bound if any."""
    value = statistics.median(rounds)
    shown = f'{value:.3g}× ({min(rounds):.3g}–{max(rounds):.3g})'
    if at_most is not None:
        return Result(name, value, shown, f'≤ {at_most:g}×', value <= at_most)
    if at_least is not None:
        return Result(name, value, shown, f'≥ {at_least:g}×', value >= at_least)
    return Result(name, value, shown)


def kib(key: str) -> int:
    """A figure of this process's memory: ``VmRSS``, what it holds; ``VmHWM``, its peak."""
    return int(
        next(line for line in STATUS.read_text().splitlines() if line.startswith(key)).split()[1]
    )
