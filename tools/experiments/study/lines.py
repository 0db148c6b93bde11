"""The results of a study: one line of JSON a finished run, appended whole or not at all."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def append_line(path: Path, line: Line) -> None:
    """Append under a lock, so that several studies may write at once."""
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
    """All lines; none if there is no file yet."""
    if not path.exists():
        return []
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return [json.loads(line) for line in file]


def line_key(line: Line) -> tuple[str, int, str]:
    """What makes two runs the same: the arm, the seed and the config."""
    return line['arm'], line['seed'], line['config_sha256']
