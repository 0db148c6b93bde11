"""Families in parallel processes; finished rows are kept, so an interrupted run goes on."""

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.compatibility.families import Family, installed
from experiments.compatibility.rows import Row, try_family
from experiments.compatibility.trial import METHODS, NOT_PLAIN

#: A family that takes longer, in seconds, is too large for a CPU.
LIMIT = 300.0
_POLL = 0.5


def read_rows(path: Path) -> list[Row]:
    """Return the finished rows of a file; the half line of an interrupted run is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def run_families(
    families: Sequence[Family],
    path: Path,
    jobs: int,
    limit: float = LIMIT,
    log: Callable[[str], object] = print,
) -> list[Row]:
    """Try all families that the file lacks, and return the rows of all.

    Args:
        families: The families.
        path: JSON lines of rows; each finished family is appended at once.
        jobs: Number of processes.
        limit: Seconds after which a family is stopped.
        log: Called with a line for each finished family.
    """
    rows = _complete(read_rows(path))
    done = {row['family'] for row in rows}
    waiting = [family for family in families if family.key not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, rows, 'w')  # without the half line of an interrupted run
    context = multiprocessing.get_context('fork')  # the hosts are imported once
    running: dict[Any, tuple[Family, float, Any]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            family = waiting.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(family, sender))
            process.start()
            sender.close()
            running[process] = family, time.monotonic(), receiver
        time.sleep(_POLL)
        for process, (family, start, receiver) in list(running.items()):
            seconds = time.monotonic() - start
            found: list[Row] | None = None
            if receiver.poll():
                try:
                    found = receiver.recv()
                except EOFError:
                    found = _unfinished(family, 'the process ended without a result')
            elif seconds > limit:
                found = _unfinished(family, f'too large here: more than {limit:g} s')
            if found is not None:
                process.kill()
                process.join()
                del running[process]
                _write(path, found, 'a')
                left = len(waiting) + len(running)
                verdicts = ', '.join(f'{row["method"]} {row["verdict"]}' for row in found)
                log(f'{family.key}: {verdicts} ({seconds:.0f} s, {left} families left)')
    wanted = {family.key for family in families}
    return [row for row in read_rows(path) if row['family'] in wanted]


def _complete(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the families that have one for each method."""
    counts = Counter(row['family'] for row in rows)
    return [row for row in rows if counts[row['family']] == len(METHODS)]


def _write(path: Path, rows: Sequence[Row], mode: str) -> None:
    with path.open(mode) as file:
        file.write(''.join(json.dumps(row) + '\n' for row in rows))


def _child(family: Family, sender: Any) -> None:
    with open(os.devnull, 'w') as nothing:  # the hosts print and log at every build
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    os.chdir(installed(family.host))  # some configs name files beside it
    try:
        rows = list(try_family(family))
    except BaseException as error:
        rows = _unfinished(family, f'{type(error).__name__}: {error}')
    sender.send(rows)
    sender.close()


def _unfinished(family: Family, reason: str) -> list[Row]:
    base = dict(family=family.key, config=family.configs[0])
    return [dict(**base, method=m, verdict=NOT_PLAIN, reason=reason) for m in METHODS]
