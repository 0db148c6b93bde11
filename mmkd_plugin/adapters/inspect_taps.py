"""The taps of a network: its module paths, with the shapes that they return."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.dry_run import Shape, blank_images, unchanged
from mmkd_plugin.adapters.probe import find_shape
from mmkd_plugin.adapters.tapped_model import TappedModel


@dataclass(frozen=True)
class TapPoint:
    """One tensor that a module returns; ``obstacle`` is the reason why it cannot be tapped."""

    tap: str
    module: str
    shape: tuple[int, ...]
    obstacle: str = ''


def tap_points(model: nn.Module, shape: Sequence[int] | None = None) -> list[TapPoint]:
    """List what every module returns in one forward, in the order of calls.

    The model runs as in the probe of a distillation, in eval mode, and stays as it was. A module
    that runs several times, or whose output a later layer changes in place, is listed with its
    obstacle. So is a part that such a run cannot call.

    Args:
        model: A network that an adapter knows, or any that runs with ``mode='tensor'``.
        shape: (channels, height, width) of the input; the first usual one that fits by default.

    Raises:
        ConfigError: If no module of the model can be tapped.
    """
    network = TappedModel(model, 'model')
    network.request(_paths(model)[:1])  # some models have no taps
    return points_at(network, find_shape(network, shape))


def points_at(network: TappedModel, shape: Shape) -> list[TapPoint]:
    """Do what :func:`tap_points` does, on an input shape (C, H, W) that is known.

    A network that does not accept the shape raises one of
    :data:`~mmkd_plugin.adapters.dry_run.REFUSALS`.
    """
    model, paths = network.model, _paths(network.model)
    records: dict[str, list[tuple[Any, tuple[int, ...]]]] = {}
    handles = []
    for path in paths:

        def record(_: nn.Module, __: Any, output: Any, path: str = path) -> None:
            versions = tuple(tensor._version for _, tensor in _tensors('', output))
            records.setdefault(path, []).append((output, versions))

        handles.append(model.get_submodule(path).register_forward_hook(record))
    obstacles = {path: network.adapter.obstacle(model, path) for path in paths}
    try:
        with unchanged(model), network.keyed():
            reached = frozenset(path for path in paths if not obstacles[path])
            inputs = blank_images(model, shape)[:1]
            samples = network.adapter.blank_samples(inputs)
            network.adapter.run(model, inputs, True, paths=reached, data_samples=samples)
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(model.named_modules())
    points = [
        point for path, calls in records.items() for point in _points(path, modules[path], calls)
    ]
    for path, obstacle in obstacles.items():
        if obstacle and path not in records and '.' not in path:
            points.append(TapPoint(path, type(modules[path]).__name__, (), obstacle))
    return points


def _paths(model: nn.Module) -> list[str]:
    """Return the paths of all modules, without those of the preprocessing."""
    paths = [path for path, _ in model.named_modules()]
    return [path for path in paths if path and not path.startswith('data_preprocessor')]


def _points(
    path: str, module: nn.Module, calls: list[tuple[Any, tuple[int, ...]]]
) -> list[TapPoint]:
    output, versions = calls[0]
    name = type(module).__name__
    points = []
    for (tap, tensor), version in zip(_tensors(path, output), versions, strict=True):
        obstacle = f'runs {len(calls)} times in a forward' if len(calls) > 1 else ''
        if tensor._version != version:
            obstacle = 'changed in place by a later layer: tap that one'
        points.append(TapPoint(tap, name, tuple(tensor.shape), obstacle))
    return points


def _tensors(path: str, output: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of an output by tap; a tuple of one needs no index."""
    if isinstance(output, Tensor):
        return [(path, output)]
    if not isinstance(output, (tuple, list)):
        return []
    if len(output) == 1 and isinstance(output[0], Tensor):
        return [(path, output[0])]
    return [found for i, item in enumerate(output) for found in _tensors(f'{path}[{i}]', item)]
