"""A teacher whose outputs are stored: it runs once for each view of an image, or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import nn

from mmkd_plugin.adapters.compat import ClassMap
from mmkd_plugin.adapters.dry_run import IMAGES
from mmkd_plugin.adapters.probe import TeacherProbe, probe_network
from mmkd_plugin.adapters.stored_network import StoredAdapter, StoredProbe
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.errors import ConfigError, config_key, construct, mapping
from mmkd_plugin.loading.build import network_config
from mmkd_plugin.loading.checkpoint import hash_file
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.replay.checksum import replayed_rows
from mmkd_plugin.replay.dataset import current_dataset
from mmkd_plugin.replay.describe import described
from mmkd_plugin.replay.manifest import (
    manifest_of,
    read_manifest,
    require_same_manifest,
    teacher_entries,
)
from mmkd_plugin.replay.probes import StoredProbes
from mmkd_plugin.replay.refusals import refuse_shared
from mmkd_plugin.replay.settings import ReplaySettings
from mmkd_plugin.replay.store import ReplayStore


class ReplayedTeacher(Teacher):
    """A teacher that reads its outputs from a store, and writes those that are missing.

    Samples come from a :class:`~mmkd_plugin.replay.dataset.ReplayedDataset`, which numbers the
    views of an image. If all rows of the store are finished, the network is neither built nor
    loaded, unless somebody evaluates it or asks for its parameters.

    Args:
        replay: See :class:`ReplaySettings`.
        key: The config key, for messages.
        options: The other arguments of :class:`~mmkd_plugin.adapters.Teacher`.

    Raises:
        ConfigError: If the config, the checkpoint or the store is wrong.
    """

    def __init__(self, replay: Any, key: str = 'teacher', **options: Any) -> None:
        with config_key(key):
            example = "dict(path='work_dirs/cache/r50', views=50)"
            given = mapping('replay', replay, example)
            self.settings: ReplaySettings = construct('replay', ReplaySettings, given)
        self._options = options
        self.replay_key = f'{key}.replay'
        self.folder = Path(self.settings.path)
        self._store: ReplayStore | None = None
        self._checked = False
        self._written = 0
        with config_key(self.replay_key):
            self._saved = read_manifest(self.folder)
            self._format = None if self._saved is None else described(self._saved.get('format'))
            self._probes = StoredProbes(self.folder)
        self._asked: tuple[Any, ...] = ([],)
        if self._is_complete():
            self._prepare(key)
        else:
            super().__init__(**options, key=key)
            self.stored = False

    def _is_complete(self) -> bool:
        """Whether the network is not needed: all rows are finished and a probe is stored."""
        if self._saved is None or self._format is None or self._format.boxes is not None:
            return False
        rows = _count(self._saved, 'length') * _count(self._saved, 'views')
        with config_key(self.replay_key):
            self._store = ReplayStore.open(self.folder, self._saved, self._format, rows)
        return bool(self._store.finished == rows and self._probes.known)

    def _prepare(self, key: str) -> None:
        """Take from the config and the store what others read of a built teacher."""
        options, self.stored = self._options, True
        self.checkpoint = str(options.get('checkpoint'))
        self.sha256 = hash_file(self.checkpoint, f'{key}.checkpoint')
        TappedModel.__init__(self, nn.Identity(), key)
        self.name = options.get('name', 'teacher')
        self.classes = self._probes.classes
        self.class_map = ClassMap(options.get('class_map'), f'{key}.class_map')
        assert self._format is not None
        self.adapter = StoredAdapter(self._probes.task, self._format.scores is not None)
        assert self._saved is not None
        with config_key(self.replay_key):
            self.settings.require_same(self._format)
            wanted = teacher_entries(*self._identity())
            require_same_manifest(self._saved, {**self._saved, **wanted})

    def load(self) -> None:
        """Build the network and load its weights, if only its store was used so far."""
        if self.stored:
            print_log(f'Teacher {self.name}: the network is built and loaded.', logger='current')
            super().__init__(**self._options, key=self.key)
            self.stored = False
            self.request(*self._asked)

    def _loaded(self) -> nn.Module:
        self.load()
        return self.model

    def _identity(self) -> tuple[str, Any, Any]:
        """Return SHA-256, config and preprocessing of the teacher."""
        run = self._options.get('run_preprocessor')
        config = network_config(
            self._options['model'], f'{self.key}.model', self._options.get('cfg_options'), run
        )
        own = self._options.get('data_preprocessor') or config.get('data_preprocessor')
        return str(self.sha256), config, dict(teacher=own, run=run)

    # Requests

    def parse(self, taps: Sequence[str], key: str) -> dict[str, Tap]:
        if not self.stored:
            return super().parse(taps, key)
        return {tap: Tap.parse(tap, key) for tap in taps}

    def request(
        self,
        taps: Sequence[str],
        scores: bool = False,
        observed: Sequence[str] | None = None,
        boxes: bool = False,
    ) -> None:
        self._asked = (taps, scores, observed, boxes)
        wanted = list(taps if observed is None else observed)
        if self._format is not None:  # all that the store holds is computed for a missing row
            missing = [tap for tap in wanted if tap not in self._format.features]
            if missing or (scores and self._format.scores is None):
                held = [*self._format.features, *(['class scores'] if self._format.scores else [])]
                raise ConfigError(
                    f'{self.replay_key}.path',
                    f'is a store without {missing[0] if missing else "class scores"}; it holds '
                    f'{", ".join(held)}',
                    'Request these, or give another path.',
                    found=self.settings.path,
                )
            wanted = list(dict.fromkeys([*wanted, *self._format.features]))
            scores = scores or self._format.scores is not None
        if not self.stored:
            super().request(list(dict.fromkeys([*taps, *wanted])), scores, wanted, boxes)
            return
        self.needs_scores = scores

    def probe(self, shape: tuple[int, int, int]) -> TeacherProbe:
        size = shape[1:]
        if self.stored and not self._probes.has(size):
            self.load()
        if not self.stored:
            output = probe_network(self, shape)
            with config_key(self.replay_key):
                refuse_shared(output)
            self._probes.note(size, output, self.adapter.task, self.classes)
            output = self.class_map(output)
            return TeacherProbe(
                self.key, output, self.model, self.sha256, self.checkpoint, size=size
            )
        with config_key(self.replay_key):
            output = self.class_map(self._probes.output(size, IMAGES))
        self.probed = {tap: tuple(value.shape) for tap, value in output.features.items()}
        args = self.key, output, self.model, self.sha256, self.checkpoint
        return StoredProbe(*args, size=size, load=self._loaded)

    # The batch

    @torch.no_grad()
    def observe(
        self, inputs: Any, rois: Sequence[torch.Tensor] = (), data_samples: Any = None
    ) -> NetworkOutput:
        """Read the outputs of a batch, and compute and write those that are missing.

        Args:
            inputs: The batch under the teacher's own preprocessing, (N, C, H, W).
            rois: Regions of the student's RoI head; a store has none.
            data_samples: Those of a ReplayedDataset: they have index, view and checksum.

        Raises:
            ConfigError: If the samples have no views, if an image is another than that of the
                store, or in the first batch, if the store belongs to another run.
        """
        with config_key(self.replay_key):
            if not self._checked:
                self._open(inputs, rois, data_samples)
            store, row = self._store, self._format
            assert store is not None and row is not None
            rows, checksums = replayed_rows(data_samples, _count(store.manifest, 'length'))
            found, data = store.read(rows)
            if not found.all():
                data = self._fill(inputs, data_samples, rows, found, data, checksums)
            output, saved = row.unpack(data, inputs.device)
            if (saved != checksums).any():
                number = int((saved != checksums).nonzero()[0][0])
                raise ConfigError(
                    'path',
                    f'holds row {rows[number]} for another image than that of the batch: a hook '
                    'changed the pipeline, or a file of the data set changed',
                    'Delete the store; it is filled again.',
                    found=self.settings.path,
                )
        return self.class_map(output)

    def _fill(
        self, inputs: Any, samples: Any, rows: Any, found: Any, data: Any, checksums: Any
    ) -> Any:
        """Run the network on a batch and write its missing rows; return the rows of all."""
        assert self._store is not None and self._format is not None
        if self.stored:
            raise ConfigError(
                'path',
                f'has a damaged row, {rows[~found][0]}',
                'Delete marks.bin and rows.bin beside the manifest and the manifest itself; the '
                'store is filled again.',
                found=self.settings.path,
            )
        computed = self._format.pack(self._compute(inputs, samples), checksums)
        self._store.write(rows[~found], computed[~found])
        self._written += int((~found).sum())
        if self._written >= _count(self._store.manifest, 'length'):  # about once an epoch
            self._written = 0
            self.flush()
        return np.where(found[:, None], data, computed)

    def _compute(self, inputs: Any, samples: Any) -> NetworkOutput:
        self._follow(inputs.device)
        return TappedModel.observe(self, inputs, (), samples)

    def _open(self, inputs: Any, rois: Sequence[torch.Tensor], samples: Any) -> None:
        """Compare the store with the data of the run, and make it if there is none."""
        dataset = current_dataset()
        if dataset is None:
            replayed_rows(samples, 1)  # its error says what is missing
            raise ConfigError(
                'path', 'needs the ReplayedDataset of the run', found=str(self.folder)
            )
        if self.settings.views not in (None, dataset.views):
            raise ConfigError(
                'views',
                f'must be that of the ReplayedDataset, {dataset.views}',
                'Leave it out: the data set states it.',
                found=self.settings.views,
            )
        row = self._format
        if row is not None:
            self.settings.require_same(row)
        if not self.stored:
            row = self.settings.format_of(self._compute(inputs, samples))
        assert row is not None
        manifest = manifest_of(dataset, dataset.config, row, *self._identity())
        rows = len(dataset) * dataset.views
        self._store = ReplayStore.open(self.folder, manifest, row, rows, self.settings.max_bytes)
        self._format, self._checked = row, True
        if not self.stored and not self._store.read_only:
            self._probes.write()
        print_log(self.summary(), logger='current')

    def view_is_finished(self, view: int) -> bool:
        """Whether the rows of all images in a view are stored; False before the first batch."""
        if self._store is None or not self._checked:
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

    # The network, where somebody needs it

    def predict(self, data: Any, device: torch.device) -> Any:
        self.load()
        return super().predict(data, device)

    def predict_inputs(self, inputs: torch.Tensor, data_samples: Any) -> Any:
        self.load()
        return super().predict_inputs(inputs, data_samples)


def _count(manifest: Mapping[str, Any], name: str) -> int:
    value = manifest.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            f'manifest.{name}', 'must be a number > 0', 'Delete the store.', found=value
        )
    return value
