"""A network that is run and read: students, teachers, peers and analysed networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkd_plugin.adapters.dry_run import REFUSALS, Shape, run_blank, unchanged
from mmkd_plugin.adapters.maps import as_maps
from mmkd_plugin.adapters.tap_requests import BOXES, SCORES, Pick, Points, TapRequests
from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput

_Function = TypeVar('_Function', bound=Callable[..., Any])


class TappedModel(TapRequests):
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
        recording.tensors = values
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
            for mark in (SCORES, BOXES)
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
        watched = self.needs_scores and self.adapter.watches
        return self.adapter.watch(self.model) if watched else nullcontext()

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
    """Result of :meth:`TappedModel.recording`, set when its body has ended.

    ``tensors`` are those that the modules returned, by tap.
    """

    output: NetworkOutput
    tensors: Mapping[str, Sequence[Tensor]]


def hook(model: nn.Module, tap: Tap, function: Callable[[nn.Module, Any], Any]) -> RemovableHandle:
    """Call ``function(module, values)`` with what a tap names, whenever its module runs."""
    module = model.get_submodule(tap.path)
    if tap.input:
        return module.register_forward_pre_hook(lambda module, args: function(module, args))
    return module.register_forward_hook(lambda module, _, output: function(module, output))


class _AllRecordedError(Exception):
    """Leaves a forward whose remaining layers are not needed."""


def outside_graphs(function: _Function) -> _Function:
    """Keep a function out of the graphs of ``torch.compile``, as ``torch.compiler.disable`` does.

    That one imports the compiler where a function is defined, which takes seconds. This one does so
    when the function is called first, when an optimizer does so anyway.
    """
    found: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not found:
            found.append(torch.compiler.disable(function))
        return found[0](*args, **kwargs)

    return cast(_Function, call)
