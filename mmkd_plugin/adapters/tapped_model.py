"""A network that is run and read: students, teachers, peers and analysed networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.dry_run import REFUSALS, Shape, run_blank, unchanged
from mmkd_plugin.adapters.layout import Layout
from mmkd_plugin.adapters.lookup import get_adapter
from mmkd_plugin.adapters.maps import as_maps
from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput

#: Stands for the tap of a network's embedding, which is found before training.
EMBEDDING = 'embedding'
Pick = Callable[[nn.Module, Any], list[Tensor]]
Points = Mapping[str, tuple[Tap, Pick]]


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
        self._scores: dict[str, tuple[Tap, Pick]] = {}
        #: Shapes of the tapped tensors in the probe, by tap.
        self.probed: dict[str, tuple[int, ...]] = {}
        #: The tap that :data:`EMBEDDING` stands for.
        self.embedding: str | None = None
        #: Measured layouts by tap; None where the layout is unknown.
        self.layouts: dict[str, Layout | None] = {}

    @property
    def observed_taps(self) -> frozenset[str]:
        """Taps of :meth:`observe`, without those of the class scores."""
        return frozenset(self._observed)

    @property
    def recorded_paths(self) -> frozenset[str]:
        """Paths of the modules that are tapped in :meth:`recording`."""
        return frozenset(tap.path for tap, _ in self._recorded.values())

    @property
    def needs_regions(self) -> bool:
        """Whether a tap runs on regions that the student's training forward samples."""
        points = [*self._recorded.values(), *self._observed.values()]
        return any(self.adapter.needs_regions(tap.path) for tap, _ in points)

    def parse(self, taps: Sequence[str], key: str) -> dict[str, Tap]:
        """Parse taps and check that the model has their modules.

        Raises:
            ConfigError: If one is not a tap, or names no module; the error is about ``key``.
        """
        parsed = {
            tap: Tap.parse(self.embedding if tap == EMBEDDING and self.embedding else tap, key)
            for tap in taps
        }
        for tap in parsed.values():
            tap.require_module(self.model, self.key, key)
        return parsed

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
        if self.adapter.no_taps and (taps or observed or scores):
            raise ConfigError(
                self.key,
                self.adapter.no_taps,
                'Distil one detector by its own config.',
                found=type(self.model).__name__,
            )
        if scores and not self.adapter.scores_known:
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
        self._scores = self._heads(_SCORES, self.adapter.score_taps if scores else {})
        self._scores |= self._heads(_BOXES, self.adapter.box_taps if boxes else {})

    def observe(
        self, inputs: Any, rois: Sequence[Tensor] = (), data_samples: Any = None
    ) -> NetworkOutput:
        """Run the model for its taps at least cost; without scores it stops at the deepest tap.

        Args:
            inputs: The preprocessed batch, (N, C, H, W).
            rois: Regions that the student's RoI head classified, by stage.
            data_samples: The framework's; they mark the padding of each image.
        """
        if not self._observed and not self.needs_scores:
            return NetworkOutput()
        paths = frozenset(tap.path for tap, _ in self._observed.values())
        with (
            self.keyed(),
            self._watched(),
            self._hooked(
                {**self._observed, **self._scores}, stop_early=not self.needs_scores
            ) as values,
        ):
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
        with self._watched(), self._hooked({**self._recorded, **self._scores}) as values:
            yield recording
        recording.output = self._read(values, inputs, data_samples)

    def shapes_at(self, taps: Sequence[str], shape: Shape) -> dict[str, tuple[int, ...]] | None:
        """Return the shapes of tapped tensors for blank images of a shape; None if refused.

        The network runs in eval mode, without gradients, and stays as it was.
        """
        points = self._points(taps)
        paths = frozenset(tap.path for tap, _ in points.values())
        try:
            with unchanged(self.model), self._hooked(points, stop_early=True) as found:
                run_blank(self.model, self.adapter, shape, paths)
        except REFUSALS:
            return None
        return {tap: tuple(tensor.shape) for tap, [tensor] in found.items()}

    def _heads(self, mark: str, picks: Mapping[str, Pick]) -> dict[str, tuple[Tap, Pick]]:
        return {mark + tap: (Tap.parse(tap, self.key), pick) for tap, pick in picks.items()}

    def _points(self, taps: Sequence[str]) -> Points:
        parsed = self.parse(taps, self.key)
        return {name: (tap, tap.pick) for name, tap in parsed.items()}

    def _read(
        self, values: Mapping[str, list[Tensor]], inputs: Any, data_samples: Any
    ) -> NetworkOutput:
        features = {name: found[0] for name, found in values.items() if name not in self._scores}
        if features and isinstance(inputs, Tensor) and inputs.ndim == 4:
            features = as_maps(self, features, inputs)
        if not self.needs_scores:
            return NetworkOutput(features=features)
        scores, boxes = (
            {name.removeprefix(mark): values[name] for name in values if name.startswith(mark)}
            for mark in (_SCORES, _BOXES)
        )
        with self.keyed():
            of_scores = self.adapter.class_scores(self.model, scores, inputs, data_samples)
            if of_scores is None or not boxes:
                return NetworkOutput(of_scores, features)
            of_boxes = self.adapter.box_outputs(self.model, boxes, of_scores)
        return NetworkOutput(of_scores, features, of_boxes)

    @contextmanager
    def keyed(self) -> Iterator[None]:
        """Name this network in errors of its adapter, which does not know its config key."""
        try:
            yield
        except ConfigError as error:
            raise error if error.key else error.inside(self.key) from None

    def _watched(self) -> AbstractContextManager[None]:
        return self.adapter.watch(self.model) if self.needs_scores else nullcontext()

    def _called_several_times(self, tap: Tap) -> ConfigError:
        return ConfigError(
            self.key,
            'the tapped module runs several times in one forward',
            f'Number the call, as in {tap.numbered()!r}, or tap a module that runs once.',
            found=tap.text,
        )

    @contextmanager
    def _hooked(
        self, points: Points, stop_early: bool = False
    ) -> Iterator[dict[str, list[Tensor]]]:
        """Yield a dict that hooks fill; remove the hooks and check what they recorded."""
        values: dict[str, list[Tensor]] = {}
        versions: dict[str, list[int]] = {}
        calls = dict.fromkeys(points, 0)
        asides = dict.fromkeys(points, 0)
        graph = torch.is_grad_enabled()

        def record(name: str, tap: Tap, pick: Pick, module: nn.Module, found: Any) -> None:
            if torch.compiler.is_compiling():  # versions are those of real tensors outside a graph
                torch._dynamo.graph_break()
            if graph and not torch.is_grad_enabled():
                # A sampler may classify regions. It counts where the module runs nowhere else.
                asides[name] += 1
                if not calls[name] and tap.call in (None, asides[name] - 1):
                    store(name, pick, module, found)
                return
            if asides[name] and not calls[name]:
                values.pop(name, None)
            calls[name] += 1
            if tap.call is None and calls[name] > 1:
                raise self._called_several_times(tap)
            if tap.call not in (None, calls[name] - 1):
                return
            store(name, pick, module, found)
            if stop_early and len(values) == len(points):
                raise _AllRecordedError

        def store(name: str, pick: Pick, module: nn.Module, found: Any) -> None:
            try:
                values[name] = pick(module, found)
            except ConfigError as error:
                raise error.inside(self.key) from None
            versions[name] = [tensor._version for tensor in values[name]]

        handles = [
            hook(self.model, tap, partial(record, name, tap, pick))
            for name, (tap, pick) in points.items()
        ]
        try:
            yield values
        except _AllRecordedError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for name, (tap, _) in points.items():
            if tap.call is None and not calls[name] and asides[name] > 1:
                raise self._called_several_times(tap)
            if name not in values and tap.text not in self.adapter.optional_taps:
                raise tap.not_reached(self.key, calls[name] or asides[name])
            if [tensor._version for tensor in values.get(name, ())] != versions.get(name, []):
                raise ConfigError(
                    self.key,
                    'a later layer changed the tapped tensor in place, often ReLU(inplace=True)',
                    'Tap that later layer.',
                    found=tap.text,
                )


class Recording:
    """Result of :meth:`TappedModel.recording`; ``output`` is set when its body has ended."""

    output: NetworkOutput


def hook(model: nn.Module, tap: Tap, function: Callable[[nn.Module, Any], Any]) -> RemovableHandle:
    """Call ``function(module, values)`` with what a tap names, whenever its module runs."""
    module = model.get_submodule(tap.path)
    if tap.input:
        return module.register_forward_pre_hook(lambda module, args: function(module, args))
    return module.register_forward_hook(lambda module, _, output: function(module, output))


#: Marks recorded class scores, so that a method may tap the same module.
_SCORES = 'scores of '
_BOXES = 'boxes of '


class _AllRecordedError(Exception):
    """Leaves a forward whose remaining layers are not needed."""
