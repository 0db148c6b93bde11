"""Parts of a network that are exchanged while it runs: weights on a device, compiled forwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def weights_on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let copies of all parameters and buffers run on a device; those of the model stay."""
    copies: dict[Tensor, Any] = {}
    own: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            own.append((tensors, dict(tensors)))
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if device.type == 'cuda' and not tensor.is_pinned():
                    tensor.data = tensor.data.pin_memory()  # once: copies are then faster
                if tensor not in copies:
                    copies[tensor] = on_device(tensor, device)
                tensors[name] = copies[tensor]
    try:
        yield
    finally:
        for tensors, content in own:
            tensors.update(content)


@contextmanager
def compiled(
    model: nn.Module, tapped: frozenset[str], options: Any, cache: dict[nn.Module, Any]
) -> Iterator[None]:
    """Let the modules without a tap inside run compiled. Hooks stay outside of them.

    Args:
        model: The network.
        tapped: Paths of the tapped modules.
        options: Arguments of ``torch.compile``.
        cache: The compiled forwards, by module; filled here.
    """
    modules = _untapped(model, '', tapped)
    own = [vars(module).get('forward') for module in modules]
    try:
        for module in modules:
            if module not in cache:
                cache[module] = torch.compile(module.forward, **options)
            module.forward = cache[module]
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            vars(module).pop('forward', None)
            if forward is not None:
                module.forward = forward


def on_device(tensor: Tensor, device: torch.device) -> Any:
    """Return a frozen parameter or a buffer on a device: itself if it is there, or a copy."""
    if tensor.device == device:
        return tensor
    copied = tensor.detach().to(device, non_blocking=True)
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied


def _untapped(module: nn.Module, path: str, tapped: frozenset[str]) -> list[nn.Module]:
    """Return the largest modules below one that have weights, and no tap inside."""
    found: list[nn.Module] = []
    for name, child in module.named_children():
        own = f'{path}{name}'
        inside = any(tap.startswith(f'{own}.') for tap in tapped)
        if inside or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += _untapped(child, f'{own}.', tapped)
        elif next(child.parameters(), None) is not None:
            found.append(child)
    return found
