"""Files of a store: made once, by one process, with their full size on the disk."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmkd_plugin.errors import ConfigError

try:
    import fcntl
except ImportError:  # not a Unix; there only one process may make a store
    fcntl = None  # type: ignore[assignment]

ROWS = 'rows.bin'
MARKS = 'marks.bin'
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(folder: Path) -> None:
    """Make the folder of a store.

    Raises:
        ConfigError: If it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(folder, error) from error


def not_writable(folder: Path, error: OSError) -> ConfigError:
    """Return the error about a folder that cannot be written."""
    return ConfigError(
        'path',
        f'must be a folder that can be written: {error.strerror or error}',
        f'Relative paths begin at {Path.cwd()}.',
        found=str(folder),
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time run the body; the lock of a killed process is free.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    try:
        handle = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise not_writable(folder, error) from error
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which frees the lock


def allocate(path: Path, size: int, size_in_words: str) -> None:
    """Make a file of zeros whose blocks are all on the disk.

    A write into a mapped file of holes ends the process by SIGBUS when the disk is full.

    Args:
        path: An earlier file there is replaced.
        size: Bytes.
        size_in_words: For the message.

    Raises:
        ConfigError: If the disk is full. The file is removed.
    """
    handle = -1
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(handle, 0, size)
        else:
            _write_zeros(handle, size)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        if error.errno not in _FULL:
            raise not_writable(path.parent, error) from error
        raise ConfigError(
            'path',
            f'has no room for the store: {size_in_words}: {error.strerror}',
            'Store fewer views, float16, a lower top or fewer locations, or give a path on another '
            'disk.',
            found=str(path.parent),
        ) from error
    finally:
        if handle >= 0:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is there completely or not at all."""
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    with draft.open('w') as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def require_length(path: Path, size: int) -> None:
    """Check the size of a file.

    Raises:
        ConfigError: If it is missing or has another.
    """
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        raise ConfigError(
            'path',
            f'is damaged: {path.name} must have {size:,} bytes'
            + ('' if found is None else f' and has {found:,}'),
            'Delete the folder; it is filled again.',
            found=str(path.parent),
        )


def _write_zeros(handle: int, size: int) -> None:
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        os.write(handle, block[: size - start])
