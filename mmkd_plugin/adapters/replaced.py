"""Another tensor in place of a tapped one, for the layers behind it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.tapped_model import hook
from mmkd_plugin.adapters.taps import Tap
from mmkd_plugin.errors import ConfigError


@contextmanager
def replaced(
    model: nn.Module, tap: str, function: Callable[[Tensor], Tensor], key: str
) -> Iterator[None]:
    """Pass ``function(tensor)`` to the layers behind a tap while the model runs in the body.

    A module that runs several times is changed in all its calls, unless the tap numbers one.

    Raises:
        ConfigError: If the tap names no module, returns no single tensor, or was not reached; the
            error is about ``key``.
    """
    parsed = Tap.parse(tap, key)
    parsed.require_module(model, 'the model', key)
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

    handle = hook(model, parsed, replace)
    try:
        yield
    finally:
        handle.remove()
    if not changed:
        raise parsed.not_reached(key, calls)
