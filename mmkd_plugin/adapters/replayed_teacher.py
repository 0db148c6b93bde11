"""A teacher whose outputs are stored: it runs once for each view of an image, or not at all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
from mmkd_plugin.replay.refusals import refuse_shared
from mmkd_plugin.replay.settings import ReplaySettings
from mmkd_plugin.replay.teacher_store import Identity, TeacherStore


class ReplayedTeacher(Teacher):
    """A teacher that reads its outputs from a store, and writes those that are missing.

    Samples come from a :class:`~mmkd_plugin.replay.dataset.ReplayedDataset`, which numbers the
    views of an image. If all rows of the store are finished, the network is neither built nor
    loaded, until it is evaluated or its parameters are read.

    Args:
        replay: See :class:`~mmkd_plugin.replay.settings.ReplaySettings`.
        key: The config key, for messages.
        options: The other arguments of :class:`~mmkd_plugin.adapters.Teacher`.

    Raises:
        ConfigError: If the config, the checkpoint or the store is wrong.
    """

    def __init__(self, replay: Any, key: str = 'teacher', **options: Any) -> None:
        self._teacher_key = key
        self._options = options
        with config_key(key):
            example = "dict(path='work_dirs/stores/r50', views=50)"
            self.settings: ReplaySettings = construct(
                'replay', ReplaySettings, mapping('replay', replay, example)
            )
        with self._keyed():
            self.store = TeacherStore(self.settings, str(options.get('name', 'teacher')))
            self.stored = self.store.is_complete()
        self._asked: tuple[Any, ...] = ([],)
        if self.stored:
            self._prepare(key)
        else:
            super().__init__(**options, key=key)
        self._identity = self._identify()
        with self._keyed():
            self.store.require_same_teacher(self._identity)

    @property
    def replay_key(self) -> str:
        """The config key of the store."""
        return f'{self._teacher_key}.replay'

    def _prepare(self, key: str) -> None:
        """Take from the config and the store what others read of a built teacher."""
        options, row = self._options, self.store.format
        self.checkpoint = str(options.get('checkpoint'))
        self.sha256 = hash_file(self.checkpoint, f'{key}.checkpoint')
        TappedModel.__init__(self, nn.Identity(), key)
        self.name = options.get('name', 'teacher')
        self.view, self.standardize = options.get('view'), options.get('standardize')
        self.classes = self.store.probes.classes
        self.class_map = ClassMap(options.get('class_map'), f'{key}.class_map')
        scores = row is not None and row.scores is not None
        self.adapter = StoredAdapter(self.store.probes.task, scores)

    def _identify(self) -> Identity:
        run = self._options.get('run_preprocessor')
        config = network_config(
            self._options['model'], f'{self.key}.model', self._options.get('cfg_options'), run
        )
        if (precision := self._options.get('precision')) is not None:
            config = dict(config, precision=precision)  # it changes what is stored
        if (view := self._options.get('view')) is not None:
            config = dict(config, view=dict(pipeline=view.pipeline, size=view.size))
        own = self._options.get('data_preprocessor') or config.get('data_preprocessor')
        return str(self.sha256), config, dict(teacher=own, run=run)

    def load(self) -> nn.Module:
        """Build the network and load its weights, if only its store was used so far."""
        if self.stored:
            print_log(f'Teacher {self.name}: the network is built and loaded.', logger='current')
            super().__init__(**self._options, key=self.key)
            self.stored = False
            self.request(*self._asked)
        return self.model

    @contextmanager
    def _keyed(self) -> Iterator[None]:
        """Put the config key of the teacher before that of an error of its store."""
        try:
            yield
        except ConfigError as error:
            first = error.key.partition('.')[0]
            if first == 'train_dataloader':
                raise
            outer = self._teacher_key if first == 'replay' else self.replay_key
            raise error.inside(outer) from error.__cause__

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
        with self._keyed():
            self.store.require_holds(wanted, scores)
        row = self.store.format
        if row is not None:  # all that the store holds is computed for a missing row
            wanted = list(dict.fromkeys([*wanted, *row.features]))
            scores = scores or row.scores is not None
        if self.stored:
            self.needs_scores = scores
        else:
            super().request(list(dict.fromkeys([*taps, *wanted])), scores, wanted, boxes)

    def probe(self, shape: tuple[int, int, int]) -> TeacherProbe:
        size = shape[1:]
        probes = self.store.probes
        if self.stored and not probes.has(size):
            self.load()
        with self._keyed():
            output = probes.output(size, IMAGES) if self.stored else probe_network(self, shape)
            refuse_shared(output)
        if not self.stored:
            self.find_fast_form(shape)
            probes.note(size, output, self.adapter.task, self.classes)
        self.probed = {tap: tuple(value.shape) for tap, value in output.features.items()}
        args = self.key, self.class_map(output), self.model, self.sha256, self.checkpoint
        return StoredProbe(*args, size=size, load=self.load)

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
            ConfigError: As :meth:`~mmkd_plugin.replay.teacher_store.TeacherStore.outputs`.
        """

        def compute() -> NetworkOutput:
            output = self.computed(inputs, (), data_samples)
            self.require_finite_now()  # before they are written
            return output

        with self._keyed():
            found = self.store.outputs(
                data_samples, inputs.device, self._identity, None if self.stored else compute
            )
        return self.class_map(found)

    # The network, where it is needed

    def predict(self, data: Any, device: torch.device) -> Any:
        self.load()
        return super().predict(data, device)

    def predict_inputs(self, inputs: torch.Tensor, data_samples: Any) -> Any:
        self.load()
        return super().predict_inputs(inputs, data_samples)
