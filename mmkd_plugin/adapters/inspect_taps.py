"""What of a network can be tapped: its module paths, with the shapes that they give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters import host_of
from mmkd_plugin.adapters.probe import find_shape


@dataclass(frozen=True)
class TapPoint:
    """One tensor that a module gives; ``obstacle`` says why it cannot be tapped, if so."""

    tap: str
    module: str
    shape: tuple[int, ...]
    obstacle: str = ''


def tap_points(model: nn.Module, shape: Sequence[int] | None = None) -> list[TapPoint]:
    """Run ``model`` once, in eval mode and without gradients, and list what every module gave, in the order of calls.

    A module that ran several times, or whose output a later layer changed in place, is listed with its obstacle.

    Args:
        model: A network that a host knows, or any that runs with ``mode='tensor'``.
        shape: (channels, height, width) of the input; the first of some usual ones that fits by default.
    """
    host = host_of(model)
    shape = find_shape(model, host, shape)
    records: dict[str, list[tuple[Any, tuple[int, ...]]]] = {}
    handles = []
    for path, module in model.named_modules():
        if path and not path.startswith('data_preprocessor'):

            def record(_: nn.Module, __: Any, output: Any, path: str = path) -> None:
                versions = tuple(tensor._version for _, tensor in _tensors('', output))
                records.setdefault(path, []).append((output, versions))

            handles.append(module.register_forward_hook(record))
    try:
        with torch.no_grad():
            host.run(
                model.eval(),
                torch.zeros(1, *shape, device=next(model.parameters()).device),
                scores=True,
            )
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(model.named_modules())
    return [
        point for path, calls in records.items() for point in _points(path, modules[path], calls)
    ]


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
    """The tensors of an output by tap, lists in a tuple included; a tuple of one needs no index, other outputs have none."""
    if isinstance(output, Tensor):
        return [(path, output)]
    if not isinstance(output, (tuple, list)):
        return []
    if len(output) == 1 and isinstance(output[0], Tensor):
        return [(path, output[0])]
    return [found for i, item in enumerate(output) for found in _tensors(f'{path}[{i}]', item)]
