"""The store: fixed rows in one mapped file, and a mark for each that is finished."""

import errno
import json
import logging
import os
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.replay import files
from mmkd_plugin.replay.logits import Bytes
from mmkd_plugin.replay.manifest import NAME, read_manifest, require_same_manifest
from mmkd_plugin.replay.rows import RowFormat
from mmkd_plugin.replay.sizes import MARK_BYTES, arithmetic, require_size
from mmkd_plugin.replay.truncation import Truncation

Rows = NDArray[np.int64]
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class ReplayStore:
    """Rows of outputs on the disk, read and written by several processes at once.

    ``rows.bin`` holds the rows. ``marks.bin`` holds four bytes a row: 0, or the CRC-32 of the
    finished row, which is written after the row. So a process that is killed leaves whole rows and
    unmarked ones. A row that a power failure tore does not fit its mark and counts as missing, as
    does one that two processes wrote differently. Each mark has four bytes of its own, so no
    process changes the mark of another's row. Both files have their full size on the disk from the
    start.

    Rows are read where they are needed; the file is never read whole.

    Use :meth:`open`.
    """

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], row: RowFormat, rows: int, writable: bool
    ) -> None:
        self.folder = folder
        self.manifest = dict(manifest)
        self.format = row
        self.rows = rows
        self.read_only = not writable
        self._warned = False
        self._own = f'truncation-{uuid.uuid4().hex}.json'
        mode: Any = 'r+' if writable else 'r'
        shape = (rows, row.row_bytes)
        self._rows: Any = np.memmap(folder / files.ROWS, np.uint8, mode, shape=shape)
        self._marks: Any = np.memmap(folder / files.MARKS, '<u4', mode, shape=rows)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        manifest: Mapping[str, Any],
        format: RowFormat,
        rows: int,
        max_bytes: int | None = None,
        read_only: bool = False,
    ) -> 'ReplayStore':
        """Open the store in a folder, and make it if there is none.

        Args:
            folder: Its folder. One that cannot be written is read only.
            manifest: All that must be the same; see :mod:`mmkd_plugin.replay.manifest`.
            format: Format of a row.
            rows: Number of views times number of images.
            max_bytes: Largest size that is wanted; None for 64 GiB.
            read_only: Whether nothing is written, even where it could be.

        Raises:
            ConfigError: If the manifest differs, the store does not fit, a file is damaged, or
                the folder has no store and cannot be written.
        """
        folder = Path(folder)
        positive_integer('rows', rows)
        saved = read_manifest(folder)
        if saved is None:
            if read_only:
                raise ConfigError(
                    'path', 'has no store to read', 'Fill one first.', found=str(folder)
                )
            views = manifest.get('views')
            views = views if isinstance(views, int) and views > 0 and rows % views == 0 else 1
            cls._make(folder, manifest, format, rows // views, views, max_bytes)
            saved = read_manifest(folder)
        assert saved is not None
        require_same_manifest(saved, manifest)
        files.require_length(folder / files.ROWS, rows * format.row_bytes)
        files.require_length(folder / files.MARKS, rows * MARK_BYTES)
        return cls(folder, saved, format, rows, not read_only and _writable(folder))

    @staticmethod
    def _make(
        folder: Path,
        manifest: Mapping[str, Any],
        row: RowFormat,
        images: int,
        views: int,
        max_bytes: int | None,
    ) -> None:
        files.make_folder(folder)
        with files.locked(folder):
            if (folder / NAME).exists():  # another process was first
                return
            for name in (
                files.ROWS,
                files.MARKS,
            ):  # of a process that was killed while it made them
                (folder / name).unlink(missing_ok=True)
            require_size(row.row_bytes, images, views, max_bytes, folder)
            text = arithmetic(row.row_bytes, images, views)
            rows = images * views
            files.allocate(folder / files.MARKS, rows * MARK_BYTES, text)
            try:
                files.allocate(folder / files.ROWS, rows * row.row_bytes, text)
            except ConfigError:
                (folder / files.MARKS).unlink()
                raise
            # Last, because its presence means that the store is complete.
            files.write_json(folder / NAME, manifest)

    def read(self, rows: Rows) -> tuple[NDArray[np.bool_], Bytes]:
        """Return which rows are finished, and the bytes of all (N, row_bytes).

        The bytes of a row that is not finished are 0.

        Raises:
            IndexError: If a row is none of the store.
        """
        rows = self._checked(rows)
        marks = self._marks[rows]
        data: Bytes = self._rows[rows]
        found = marks != 0
        for number in found.nonzero()[0]:
            found[number] = _mark(data[number]) == marks[number]
        data[~found] = 0
        return found, data

    def write(self, rows: Rows, data: Bytes) -> None:
        """Write finished rows (N, row_bytes), then their marks. A read-only store ignores them.

        Raises:
            IndexError: If a row is none of the store.
            ValueError: If the bytes are no rows of this store.
        """
        rows = self._checked(rows)
        if data.dtype != np.uint8 or data.shape != (len(rows), self.format.row_bytes):
            raise ValueError(f'{data.shape} of {data.dtype} are no {len(rows)} rows')
        if self.read_only:
            if not self._warned:
                self._warned = True
                print_log(
                    f'The store {self.folder} is read only: outputs of missing views are computed '
                    'and not kept.',
                    logger='current',
                    level=logging.WARNING,
                )
            return
        self._rows[rows] = data
        self._marks[rows] = [_mark(one) for one in np.ascontiguousarray(data)]

    @property
    def finished(self) -> int:
        """Number of finished rows, by their marks."""
        return int(np.count_nonzero(self._marks))

    def are_finished(self, start: int, stop: int) -> bool:
        """Whether all rows of a range are finished, by their marks."""
        return bool(np.all(self._marks[start:stop] != 0))

    @property
    def truncation(self) -> Truncation:
        """The loss of all rows against the outputs, as far as :meth:`flush` saved it.

        The loss of this process is included. A damaged file of another process is left out.
        """
        total = Truncation()
        total.add(self.format.truncation)
        for path in sorted(self.folder.glob('truncation-*.json')):
            if path.name != self._own:
                try:
                    total.add(Truncation.from_json(json.loads(path.read_bytes())))
                except (OSError, ValueError, TypeError):
                    print_log(f'{path} is not readable.', logger='current', level=logging.WARNING)
        return total

    def flush(self) -> None:
        """Have the rows written to the disk, and save their loss."""
        if self.read_only:
            return
        for one in (self._rows, self._marks):
            one.flush()
        if self.format.truncation.images:
            files.write_json(self.folder / self._own, self.format.truncation.to_json())

    def __len__(self) -> int:
        return self.rows

    def __reduce__(self) -> tuple[Any, ...]:  # a copy in another process maps the files anew
        return _reopen, (self.folder, self.manifest, self.format, self.rows, not self.read_only)

    def _checked(self, rows: Rows) -> Rows:
        rows = np.asarray(rows, np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.rows:
            raise IndexError(f'rows {rows.min()} to {rows.max()} of {self.rows}')
        return rows


def _reopen(
    folder: Path, manifest: Mapping[str, Any], row: RowFormat, rows: int, writable: bool
) -> ReplayStore:
    fresh = replace(row, truncation=Truncation())  # the copied counts are those of the original
    return ReplayStore(folder, manifest, fresh, rows, writable)


def _mark(row: Bytes) -> int:
    data: Any = row
    return zlib.crc32(data) or 1  # 0 means unfinished


def _writable(folder: Path) -> bool:
    try:
        for name in (files.ROWS, files.MARKS):
            os.close(os.open(folder / name, os.O_RDWR))
    except OSError as error:
        if error.errno in _READ_ONLY:
            return False
        raise
    return True
