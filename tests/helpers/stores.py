"""Stores of small rows, and processes that fill them."""

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_plugin.replay import ReplayStore, RowFormat
from mmkd_plugin.replay.logits import LogitCodec

ROW = RowFormat(LogitCodec(100))
MANIFEST: dict[str, Any] = dict(seed=0, views=5, pipeline=[dict(type='Flip', prob=0.5)])


def opened(folder: Path, rows: int = 500, **changes: Any) -> ReplayStore:
    """Open a store of 100 float16 scores a row."""
    settings: dict[str, Any] = dict(manifest=dict(MANIFEST), format=ROW)
    return ReplayStore.open(folder, rows=rows, **{**settings, **changes})


def content(rows: NDArray[np.int64], salt: int = 0) -> NDArray[np.uint8]:
    """Return bytes that depend on the row alone, so that a torn row is seen."""
    steps = np.arange(ROW.row_bytes) * 37
    return ((rows[:, None] * 131 + steps + salt) % 251 + 1).astype(np.uint8)


def fill(folder: str, rank: int, size: int, rows: int, batch: int = 7) -> None:
    """Write every ``size``-th row, from ``rank`` on, in batches."""
    store = opened(Path(folder), rows)
    own = np.arange(rank, rows, size)
    np.random.default_rng(rank).shuffle(own)
    for start in range(0, len(own), batch):
        part = own[start : start + batch]
        store.write(part, content(part))


def fill_without_end(folder: str, rows: int, started: str) -> None:
    """Write all rows again and again; the test kills this process."""
    store = opened(Path(folder), rows)
    rng = np.random.default_rng(os.getpid())
    turn = 0
    while True:
        part = rng.integers(0, rows, 64)
        store.write(part, content(part, turn % 5))
        turn += 1
        if turn == 20:
            Path(started).touch()


def killed_while_writing(process: Any, started: Path, delay: float) -> None:
    """Kill a process as ``kill -9`` does, after it has begun to write."""
    deadline = time.monotonic() + 60
    while not started.exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def open_and_report(folder: str, rows: int, queue: Any) -> None:
    """Open a store at the same time as other processes, and write one row."""
    try:
        store = opened(Path(folder), rows)
        row = np.array([os.getpid() % rows])
        store.write(row, content(row))
        queue.put('')
    except Exception as error:
        queue.put(repr(error))


def open_with_small_files(folder: str, rows: int, limit: int, queue: Any) -> None:
    """Open a store in a process that may write files of ``limit`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        opened(Path(folder), rows)
        queue.put('')
    except Exception as error:
        queue.put(f'{type(error).__name__} {error}')


def read_as_nobody(folder: str, rows: int, queue: Any) -> None:
    """Read, and try to write, without the right to write."""
    try:
        os.setuid(65534)
        store = opened(Path(folder), rows)
        every = np.arange(rows)
        found, _ = store.read(every)
        store.write(every, content(every, salt=1))
        store.flush()
        after, data = store.read(every)
        same = bool((data[found] == content(every)[found]).all() and (found == after).all())
        queue.put((store.read_only, int(found.sum()), same))
    except Exception as error:
        queue.put(repr(error))
