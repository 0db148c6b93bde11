"""A network that is run and read: students, teachers, peers and analysed networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.dry_run import REFUSALS, run_blank, unchanged
from mmkd_plugin.adapters.layout import Layout, measure_layouts
from mmkd_plugin.adapters.lookup import get_adapter
from mmkd_plugin.adapters.tap_hooks import Points, hook, recorded
from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput


class TappedModel:
    """A framework's model with its adapter and the taps that methods requested.

    It is no ``nn.Module``: the model belongs to the caller.

    Args:
        model: The network.
        key: The config key of the network, for messages.

    Example:
        >>> import torch
        >>> net = TappedModel(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 'student')
        >>> net.request(['0'])
        >>> with net.recording(None) as recording:
        ...     _ = net.model(torch.ones(2, 4))
        >>> recording.output.feature('0').shape
        torch.Size([2, 3])
    """

    #: Whether :meth:`observe` marks the locations in the padding of each image.
    marks_padding = True

    def __init__(self, model: nn.Module, key: str) -> None:
        self.model = model
        self.key = key
        self.adapter: Adapter = get_adapter(model)
        self.needs_scores = False
        self._recorded: Points = {}
        self._observed: Points = {}
        self._scores: Points = {}
        self._boxes: Points = {}
        #: Shapes of the tapped tensors in the probe, by tap.
        self.probed: dict[str, tuple[int, ...]] = {}
        self._layouts: dict[str, Layout | None] = {}

    @property
    def observed_taps(self) -> frozenset[str]:
        """Taps of :meth:`observe`, without those of the class scores."""
        return frozenset(self._observed)

    @property
    def recorded_paths(self) -> frozenset[str]:
        """Paths of the modules that are tapped in :meth:`recording`."""
        return frozenset(tap.path for tap, _ in self._recorded.values())

    def parse(self, taps: Sequence[str], key: str) -> dict[str, Tap]:
        """Parse taps and check that the model has their modules.

        Raises:
            ConfigError: If one is not a tap, or names no module; the error is about ``key``.
        """
        parsed = [Tap.parse(tap, key) for tap in taps]
        for tap in parsed:
            tap.require_module(self.model, self.key, key)
        return {tap.text: tap for tap in parsed}

    def request(
        self,
        taps: Sequence[str],
        scores: bool = False,
        observed: Sequence[str] | None = None,
        boxes: bool = False,
    ) -> None:
        """Set what is recorded from now on.

        Args:
            taps: Taps of :meth:`recording`.
            scores: Whether class scores are read.
            observed: Taps of :meth:`observe`; ``taps`` by default.
            boxes: Whether the boxes at the locations of the class scores are read as well.

        Raises:
            ConfigError: If a tap names no module, or if the class scores or boxes of the model are
                unknown.
        """
        scores = scores or boxes
        if scores and not self.adapter.score_taps:
            raise ConfigError(
                self.key,
                f'class scores of {type(self.model).__name__} are not supported: '
                f'{self.adapter.no_scores}',
                'Use methods on taps alone, or register a score reader for the head.',
            )
        if boxes and not self.adapter.box_taps:
            raise ConfigError(
                self.key,
                f'boxes of {type(self.model).__name__} cannot be compared: only one-stage '
                'detectors output boxes at fixed locations',
                'Use methods on class scores or taps.',
            )
        self.needs_scores = scores
        self._recorded = self._points(taps)
        self._observed = self._points(taps if observed is None else observed)
        picks = self.adapter.score_taps if scores else {}
        self._scores = {
            _SCORES + tap: (Tap.parse(tap, self.key), pick) for tap, pick in picks.items()
        }
        self._boxes = {
            _BOXES + tap: (Tap.parse(tap, self.key), pick)
            for tap, pick in (self.adapter.box_taps if boxes else {}).items()
        }

    def observe(
        self, inputs: Any, rois: Sequence[Tensor] = (), data_samples: Any = None
    ) -> NetworkOutput:
        """Run the model for its taps at least cost; without scores it stops at the deepest tap.

        Args:
            inputs: The preprocessed batch, (N, C, H, W).
            rois: Regions that the student's RoI head classified, by stage.
            data_samples: The framework's; they mark the padding of each image.
        """
        if not self._observed and not self._scores:
            return NetworkOutput()
        paths = frozenset(tap.path for tap, _ in self._observed.values())
        with self._record(self._observed, stop_early=not self.needs_scores) as values:
            self.adapter.run(self.model, inputs, self.needs_scores, rois, paths, data_samples)
        return self._read(values, inputs, data_samples if self.marks_padding else None)

    @contextmanager
    def recording(self, inputs: Any, data_samples: Any = None) -> Iterator['Recording']:
        """Record the taps while the model runs in the body, for example for its own losses.

        Args:
            inputs: The preprocessed batch, (N, C, H, W).
            data_samples: The framework's.

        Yields:
            An object whose ``output`` is set when the body ends.

        Raises:
            ConfigError: If a tap was not reached, reached twice, returned no single tensor, or was
                changed in place afterwards.
        """
        recording = Recording()
        with self._record(self._recorded) as values:
            yield recording
        recording.output = self._read(values, inputs, data_samples)

    @contextmanager
    def replacing(self, tap: str, function: Callable[[Tensor], Tensor], key: str) -> Iterator[None]:
        """Pass ``function(tensor)`` to the layers behind a tap while the model runs in the body.

        A module that runs several times is changed in all its calls, unless the tap numbers one.

        Raises:
            ConfigError: If the tap names no module, returns no single tensor, or was not reached.
        """
        [parsed] = self.parse([tap], key).values()
        calls, changed = 0, False

        def replace(module: nn.Module, values: Any) -> Any:
            nonlocal calls, changed
            calls += 1
            if parsed.call not in (None, calls - 1):
                return None
            changed = True
            try:
                [tensor] = parsed.pick(module, values)
            except ConfigError as error:
                raise error.inside(key) from None
            return parsed.put(values, function(tensor))

        handle = hook(self.model, parsed, replace)
        try:
            yield
        finally:
            handle.remove()
        if not changed:
            raise parsed.not_reached(key, calls)

    def as_maps(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """Bring recorded tensors into the form (N, C, H, W), where they have positions.

        The layout of a tap is measured once. A tensor of unknown layout stays as it is.

        Args:
            tensors: Recorded tensors by tap.
            inputs: The preprocessed batch, (N, C, H, W).
        """
        unknown = {tap: value for tap, value in tensors.items() if tap not in self._layouts}
        if unknown:
            self._measure(unknown, inputs)
        size = inputs.shape[2:]
        return {
            tap: value if (layout := self._layouts[tap]) is None
            else layout.to_map(value, size, tap, self.key)
            for tap, value in tensors.items()
        }  # fmt: skip

    def from_map(self, tap: str, feature: Tensor, output: Tensor) -> Tensor:
        """Bring a map back into the form of the ``output`` of a tap that it was made of."""
        layout = self._layouts.get(tap)
        return feature if layout is None else layout.from_map(feature, output)

    def _points(self, taps: Sequence[str]) -> Points:
        parsed = self.parse(taps, self.key)
        return {name: (tap, tap.pick) for name, tap in parsed.items()}

    def _read(
        self, values: Mapping[str, list[Tensor]], inputs: Any, data_samples: Any
    ) -> NetworkOutput:
        heads = self._scores.keys() | self._boxes.keys()
        features = {name: found[0] for name, found in values.items() if name not in heads}
        if isinstance(inputs, Tensor) and inputs.ndim == 4:
            features = self.as_maps(features, inputs)
        if not self._scores:
            return NetworkOutput(features=features)
        found = {
            name.removeprefix(_SCORES): values[name] for name in self._scores if name in values
        }
        scores = self.adapter.class_scores(self.model, found, inputs, data_samples)
        if scores is None or not self._boxes:
            return NetworkOutput(scores, features)
        read = {name.removeprefix(_BOXES): values[name] for name in self._boxes}
        return NetworkOutput(scores, features, self.adapter.box_outputs(self.model, read, scores))

    def _record(
        self, points: Points, stop_early: bool = False
    ) -> AbstractContextManager[dict[str, list[Tensor]]]:
        optional = self.adapter.optional_taps
        every = {**points, **self._scores, **self._boxes}
        return recorded(self.model, every, self.key, optional, stop_early)

    def _measure(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> None:
        """Learn the layouts of tapped tensors by a run on wider blank images."""
        size = (inputs.shape[2], inputs.shape[3])
        shapes = {tap: tuple(tensor.shape) for tap, tensor in tensors.items()}
        points = self._points(list(tensors))
        paths = frozenset(tap.path for tap, _ in points.values())

        def run(other: tuple[int, int]) -> dict[str, tuple[int, ...]] | None:
            shape = (inputs.shape[1], *other)
            try:
                with unchanged(self.model), recorded(self.model, points, self.key) as found:
                    run_blank(self.model, self.adapter, shape, paths)
            except (*REFUSALS, ConfigError):
                return None
            return {tap: tuple(tensor.shape) for tap, [tensor] in found.items()}

        for tap, layout in measure_layouts(shapes, size, run).items():
            if layout is None:
                layout = self.adapter.known_layout(self.model, tap, shapes[tap], size)
            self._layouts[tap] = layout


class Recording:
    """Result of :meth:`TappedModel.recording`; ``output`` is set when its body has ended."""

    output: NetworkOutput


#: Marks recorded class scores, so that a method may tap the same module.
_SCORES = 'scores of '
_BOXES = 'boxes of '
