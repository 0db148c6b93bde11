"""The store of one teacher in one run: opened at the first batch, read and filled afterwards."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmkd_plugin.boxes import Levels
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.replay.checksum import replayed_rows
from mmkd_plugin.replay.dataset import current_dataset
from mmkd_plugin.replay.describe import described
from mmkd_plugin.replay.logits import Bytes
from mmkd_plugin.replay.manifest import (
    manifest_of,
    read_manifest,
    require_same_manifest,
    teacher_entries,
)
from mmkd_plugin.replay.probes import StoredProbes
from mmkd_plugin.replay.settings import ReplaySettings
from mmkd_plugin.replay.store import ReplayStore
from mmkd_plugin.replay.store_checks import compare_rows

#: SHA-256, config and preprocessing of a teacher.
Identity = tuple[str, Any, Any]


class TeacherStore:
    """Outputs of a teacher by image and view.

    Args:
        settings: The key ``replay`` of the teacher.
        name: Name of the teacher, for the log.

    Raises:
        ConfigError: If there is a store and its manifest is damaged.
    """

    def __init__(self, settings: ReplaySettings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.folder = Path(settings.path)
        self.probes = StoredProbes(self.folder)
        self._saved = read_manifest(self.folder)
        self.format = None if self._saved is None else described(self._saved.get('format'))
        self._store: ReplayStore | None = None
        self._compared = False
        self._written = 0
        self._others: list[str] = []

    def is_complete(self) -> bool:
        """Whether the network is not needed: all rows are finished, and a probe is stored."""
        boxes = self.format is not None and self.format.boxes is not None
        return self.probes.known(boxes) and self.is_full()

    def is_full(self) -> bool:
        """Whether all rows are finished."""
        if self._saved is None or self.format is None:
            return False
        rows = _count(self._saved, 'length') * _count(self._saved, 'views')
        self._store = ReplayStore.open(self.folder, self._saved, self.format, rows)
        return self._store.finished == rows

    def require_same_teacher(self, identity: Identity) -> None:
        """Refuse a store of another teacher or other settings, as far as known without the data."""
        if self._saved is not None and self.format is not None:
            self.settings.require_same(self.format)
            wanted = {**self._saved, **teacher_entries(*identity)}
            require_same_manifest(self._saved, wanted)

    def share(self, others: list[str]) -> None:
        """Keep the locations of dense heads where this or another detector teaches.

        Args:
            others: SHA-256 of the files of the other detectors.

        Raises:
            ConfigError: If there is a store without their locations.
        """
        self._others = others
        if self._saved is not None:
            require_same_manifest(self._saved, {**self._saved, 'other_teachers': others})

    def outputs(
        self,
        data_samples: Sequence[Any],
        device: torch.device,
        identity: Identity,
        compute: Callable[[], NetworkOutput] | None,
        priority: Callable[[], torch.Tensor] | None = None,
        levels: Levels | None = None,
    ) -> NetworkOutput:
        """Return the outputs for a batch; compute and write those that are missing.

        Args:
            data_samples: Those of a ReplayedDataset: they have index, view and checksum.
            device: Device of the outputs.
            identity: SHA-256, config and preprocessing of the teacher.
            compute: Runs the network on the batch; None if it is not built.
            priority: Returns the priority of each location, where several detectors share them.
            levels: Levels of the batch of a dense detector; see :meth:`RowFormat.unpack`.

        Raises:
            ConfigError: If the samples have no views, if an image is another than that of the
                store, or in the first batch, if the store belongs to another run.
        """
        computed = None
        if not self._compared:
            dataset = current_dataset()
            if dataset is None:
                replayed_rows(data_samples, 1)  # its error says what is missing
                raise ConfigError(
                    'path', 'needs the ReplayedDataset of the run', found=self.settings.path
                )
            computed = None if compute is None else compute()
            self._open(dataset, identity, computed)
        store, row = self._store, self.format
        assert store is not None and row is not None
        rows, checksums = replayed_rows(data_samples, _count(store.manifest, 'length'))
        found, data = store.read(rows)
        if not found.all() and compute is None:
            raise ConfigError(
                'path',
                f'has a damaged row, {rows[~found][0]}',
                'Delete manifest.json in this folder; the store is filled again.',
                found=self.settings.path,
            )
        if found.all() and computed is None:
            return self._unpacked(data, rows, checksums, device, levels)
        assert compute is not None
        computed = compute() if computed is None else computed
        own = row.pack(computed, checksums, None if priority is None else priority())
        if not self._compared and found.any():
            compare_rows(row, self.name, self.settings.path, data[found], own[found])
        self._compared = True
        if not found.all():
            self._write(rows[~found], own[~found])
        data = np.where(found[:, None], data, own)
        return self._unpacked(data, rows, checksums, device, levels)

    def view_is_finished(self, view: int) -> bool:
        """Whether the rows of all images in a view are stored; False before the first batch."""
        if self._store is None or not self._compared:
            return False
        images = _count(self._store.manifest, 'length')
        return self._store.are_finished(view * images, (view + 1) * images)

    def flush(self) -> None:
        """Have the written rows on the disk, and log their number and their loss."""
        if self._store is not None:
            self._store.flush()
            print_log(self.summary(), logger='current')

    def summary(self) -> str:
        """Return the number of stored rows, their size, and the loss by truncation."""
        if self._store is None:
            return f'Teacher {self.name}: nothing is stored.'
        truncation = self._store.truncation
        loss = f'; {truncation}' if truncation.images and not self._store.format.exact else ''
        return (
            f'Teacher {self.name}: {self._store.finished:,} of {len(self._store):,} rows of '
            f'{self._store.format.row_bytes:,} bytes are stored in {self.folder}{loss}.'
        )

    def _open(self, dataset: Any, identity: Identity, computed: NetworkOutput | None) -> None:
        """Compare the store with the data of the run, and make it if there is none."""
        if self.settings.views not in (None, dataset.views):
            raise ConfigError(
                'views',
                f'must be that of the ReplayedDataset, {dataset.views}',
                'Leave it out: the data set states it.',
                found=self.settings.views,
            )
        if self.format is not None:
            self.settings.require_same(self.format)
        row = self.format if computed is None else self.settings.format_of(computed)
        assert row is not None
        manifest = manifest_of(dataset, dataset.config, row, *identity, self._others)
        rows = len(dataset) * dataset.views
        self._store = ReplayStore.open(self.folder, manifest, row, rows, self.settings.max_bytes)
        self.format = row
        self._compared = computed is None
        if computed is not None and not self._store.read_only:
            self.probes.write()
        print_log(self.summary(), logger='current')

    def _write(self, rows: NDArray[np.int64], data: Bytes) -> None:
        assert self._store is not None
        self._store.write(rows, data)
        self._written += len(rows)
        if self._written >= _count(self._store.manifest, 'length'):  # about once an epoch
            self._written = 0
            self.flush()

    def _unpacked(
        self,
        data: Bytes,
        rows: NDArray[np.int64],
        checksums: NDArray[np.uint32],
        device: torch.device,
        levels: Levels | None,
    ) -> NetworkOutput:
        assert self.format is not None
        output, saved = self.format.unpack(data, device, levels)
        if (saved != checksums).any():
            first = rows[saved != checksums][0]
            raise ConfigError(
                'path',
                f'holds row {first} for another image than that of the batch: a hook changed the '
                'pipeline, or a file of the data set changed',
                'Delete the store; it is filled again.',
                found=self.settings.path,
            )
        return output


def _count(manifest: Mapping[str, Any], name: str) -> int:
    value = manifest.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            f'manifest.{name}', 'must be a number > 0', 'Delete the store.', found=value
        )
    return value
