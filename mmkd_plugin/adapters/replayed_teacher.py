"""A teacher whose outputs are stored: it runs once for each view of an image, or not at all."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from mmkd_plugin.adapters.compat import ClassMap
from mmkd_plugin.adapters.dry_run import IMAGES
from mmkd_plugin.adapters.probe import TeacherProbe, probe_network
from mmkd_plugin.adapters.reduction import Reduction, tap_of
from mmkd_plugin.adapters.shared_locations import SharedLocations
from mmkd_plugin.adapters.stored_network import StoredAdapter, StoredProbe
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.adapters.teacher import Teacher
from mmkd_plugin.boxes import Levels
from mmkd_plugin.errors import ConfigError, config_key, construct, mapping
from mmkd_plugin.loading.build import network_config
from mmkd_plugin.loading.checkpoint import hash_file
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.replay.refusals import refuse_shared
from mmkd_plugin.replay.settings import ReplaySettings
from mmkd_plugin.replay.store_checks import require_computable, require_holds
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

    replayed = True

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
        self.shared: SharedLocations | None = None
        self._asked_boxes = False
        self._whole: set[str] = set()
        self._computes_rows = True
        self._reductions: dict[str, Reduction] = {}
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
        row = self.store.format
        if row is not None:  # all that the store holds is computed for a missing row
            held = {tap_of(name) for name in row.features}
            with self._keyed():
                unknown = [tap for tap in wanted if tap not in held]
                require_holds(row, self.settings.path, unknown, scores, boxes)
            wanted = list(dict.fromkeys([*wanted, *held]))
            scores = scores or row.scores is not None
            boxes = boxes or row.boxes is not None
        self._asked_boxes = boxes
        if self.stored:
            self.needs_scores = scores
        else:
            super().request(list(dict.fromkeys([*taps, *wanted])), scores, wanted, boxes)

    def probe(self, shape: tuple[int, int, int]) -> TeacherProbe:
        size = shape[1:]
        probes = self.store.probes
        if self.stored and not probes.has(size, self._asked_boxes):
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

    def keep(self, taps: Collection[str], reductions: Sequence[Reduction]) -> None:
        """Store these taps as they are, and the results of these reductions.

        Raises:
            ConfigError: If an existing store holds neither a reduction nor its tap, or if it has
                missing rows and a reduction that is unknown here.
        """
        if self.standardize is not None:  # whole maps are measured and scaled
            taps, reductions = [*taps, *(one.tap for one in reductions)], []
        row = self.store.format
        stored = set() if row is None else set(row.features)
        self._whole = set(taps) | {one for one in stored if one == tap_of(one)}
        self._reductions = {one.feature: one for one in reductions if one.tap not in self._whole}
        computed = self._whole | self._reductions.keys()
        self._computes_rows = stored <= computed
        if row is None:
            return
        with self._keyed():
            require_holds(row, self.settings.path, [*taps, *self._reductions], self.needs_scores)
            if not self.store.is_full():
                require_computable(row, self.settings.path, computed)

    def _reduced(self, output: NetworkOutput) -> NetworkOutput:
        values = {tap: one for tap, one in output.features.items() if tap in self._whole}
        values |= {
            name: one.function(output.feature(one.tap)) for name, one in self._reductions.items()
        }
        return replace(output, features=values)

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
            own = None if self.shared is None else self.shared.output(self)
            output = self.computed(inputs, (), data_samples) if own is None else own
            self.require_finite_now()  # before they are written
            return self._reduced(output)

        priority = None if self.shared is None else self.shared.priority
        with self._keyed():
            found = self.store.outputs(
                data_samples,
                inputs.device,
                self._identity,
                compute if self._computes_rows and not self.stored else None,
                priority,
            )
        return self.class_map(found)

    def own_output(
        self, inputs: torch.Tensor, data_samples: Any, levels: Levels | None = None
    ) -> NetworkOutput:
        if not self.stored:
            return super().own_output(inputs, data_samples)
        with self._keyed():
            return self.store.outputs(
                data_samples, inputs.device, self._identity, None, levels=levels
            )

    def share_locations(self, shared: SharedLocations) -> None:
        """Keep the locations where any of several detectors teaches.

        Raises:
            ConfigError: If an existing store lacks those of another teacher.
        """
        self.shared = shared
        with self._keyed():
            self.store.share(shared.others(self))

    # The network, where it is needed

    def predict(self, data: Any, device: torch.device) -> Any:
        self.load()
        return super().predict(data, device)

    def predict_inputs(self, inputs: torch.Tensor, data_samples: Any) -> Any:
        self.load()
        return super().predict_inputs(inputs, data_samples)
