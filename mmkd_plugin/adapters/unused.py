"""Layers of a frozen network whose outputs reach nothing that is read, such as a box branch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: A normalisation of these types has an output of the form of its input.
_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def unused_layers(model: nn.Module, outputs: Callable[[], Sequence[Tensor]]) -> list[nn.Module]:
    """Return the convolutions and normalisations that change none of the outputs.

    Args:
        model: The network; its parameters need no gradient.
        outputs: Runs it with a graph, and returns what is read.
    """
    weights: dict[nn.Module, Any] = {
        layer: layer.weight for layer in model.modules() if _may_be_left_out(layer)
    }
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.enable_grad():
            read = [tensor.float().sum() for tensor in outputs() if tensor.requires_grad]
        # Stages that the framework freezes have lost theirs.
        followed = [layer for layer, weight in weights.items() if weight.requires_grad]
        if not read or not followed:
            return []
        tracked = [weights[layer] for layer in followed]
        gradients = torch.autograd.grad(read, tracked, allow_unused=True)
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return [layer for layer, found in zip(followed, gradients, strict=True) if found is None]


def is_plain_conv(module: nn.Module) -> bool:
    """Whether a module convolves with the parameters ``weight`` and ``bias`` as they are."""
    forward = type(module).forward
    plain = forward is nn.Conv2d.forward or forward.__module__ == 'mmcv.cnn.bricks.wrappers'
    return (
        isinstance(module, nn.Conv2d)
        and plain
        and module._parameters.get('weight') is not None
        and is_bare(module)
    )


def is_bare(module: nn.Module) -> bool:
    """Whether a module has no hooks, and no forward but that of its class."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and 'forward' not in vars(module)


def filled(layer: nn.Module, fill: float, inputs: Tensor) -> Tensor:
    """Return what stands for the output of an unused layer in a trial.

    Args:
        layer: A convolution or a normalisation.
        fill: The largest of the values, which all differ: they must not change what is read.
        inputs: Its input.
    """
    output = type(layer).forward(layer, inputs)
    values = torch.linspace(fill / 2, fill, output.numel(), device=output.device)
    return values.to(output).view(output.shape)


def _may_be_left_out(module: nn.Module) -> bool:
    if is_plain_conv(module):
        return isinstance(module.padding, tuple)
    return (
        type(module) in _NORMS and module._parameters.get('weight') is not None and is_bare(module)
    )
