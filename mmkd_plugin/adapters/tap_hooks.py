"""Forward hooks that record tapped tensors."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.errors import ConfigError

Pick = Callable[[nn.Module, Any], list[Tensor]]
Points = Mapping[str, tuple[Tap, Pick]]


@contextmanager
def recorded(
    model: nn.Module,
    points: Points,
    key: str,
    optional: Collection[str] = (),
    stop_early: bool = False,
) -> Iterator[dict[str, list[Tensor]]]:
    """Yield a dict that hooks fill while the model runs in the body; check it afterwards.

    Args:
        model: The network.
        points: Taps by name, each with a function that picks tensors out of what a module returns.
        key: The config key of the network, for messages.
        optional: Taps that a forward may leave out.
        stop_early: Whether the body ends as soon as every tap is recorded.

    Raises:
        ConfigError: If a tap was not reached, reached twice, returned no single tensor, or was
            changed in place afterwards.
    """
    values: dict[str, list[Tensor]] = {}
    versions: dict[str, list[int]] = {}
    calls = dict.fromkeys(points, 0)

    def record(name: str, tap: Tap, pick: Pick, module: nn.Module, found: Any) -> None:
        calls[name] += 1
        if tap.call is None and name in values:
            raise ConfigError(
                key,
                'the tapped module runs several times in one forward',
                f'Number the call, as in {tap.numbered()!r}, or tap a module that runs once.',
                found=tap.text,
            )
        if tap.call not in (None, calls[name] - 1):
            return
        try:
            values[name] = pick(module, found)
        except ConfigError as error:
            raise error.inside(key) from None
        versions[name] = [tensor._version for tensor in values[name]]
        if stop_early and len(values) == len(points):
            raise _AllRecordedError

    handles = [
        hook(model, tap, partial(record, name, tap, pick)) for name, (tap, pick) in points.items()
    ]
    try:
        yield values
    except _AllRecordedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for name, (tap, _) in points.items():
        if name not in values and tap.text not in optional:
            raise tap.not_reached(key, calls[name])
        if [tensor._version for tensor in values.get(name, ())] != versions.get(name, []):
            raise ConfigError(
                key,
                'a later layer changed the tapped tensor in place, often ReLU(inplace=True)',
                'Tap that later layer.',
                found=tap.text,
            )


def hook(model: nn.Module, tap: Tap, function: Callable[[nn.Module, Any], Any]) -> RemovableHandle:
    """Call ``function(module, values)`` with what a tap names, whenever its module runs."""
    module = model.get_submodule(tap.path)
    if tap.input:
        return module.register_forward_pre_hook(lambda module, args: function(module, args))
    return module.register_forward_hook(lambda module, _, output: function(module, output))


class _AllRecordedError(Exception):
    """Leaves a forward whose remaining layers are not needed."""
