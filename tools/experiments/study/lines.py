"""The results of a study: one line of JSON for each finished run, appended whole or not at all."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from mmkd_plugin.errors import ConfigError

Line = dict[str, Any]


def append_line(path: Path, line: Line) -> None:
    """Append a line under a lock, because several processes may write at once."""
    data = (json.dumps(line, allow_nan=False) + '\n').encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('ab', buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(f'{path}: the line was not written whole')
            os.fsync(file)
        except BaseException:
            file.truncate(size)
            raise


def read_lines(path: Path) -> list[Line]:
    """Return all lines; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return [json.loads(line) for line in file]


def line_key(line: Line) -> tuple[str, int, str]:
    """Return the identity of a run: its arm, seed and config."""
    return line['arm'], line['seed'], line['config_sha256']


def mean_metric(lines: list[Line], split: str, metric: str) -> float:
    """Return the mean of a metric over lines.

    Raises:
        ConfigError: If a line lacks the metric. The message lists the metrics that it has.
    """
    values: list[float] = []
    for line in lines:
        known: dict[str, Any] = line.get(split, {})
        if metric not in known:
            raise ConfigError(
                'metric',
                f'is not among the {split} metrics of {line["arm"]}',
                f'These are {", ".join(sorted(known))}.',
                found=metric,
            )
        values.append(known[metric])
    return sum(values) / len(values)
