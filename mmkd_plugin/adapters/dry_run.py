"""Runs on blank images that change nothing: neither modes, nor buffers, nor random numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter

Shape = tuple[int, int, int]
#: BatchNorm of maps of one position needs two images in training mode.
IMAGES = 2
#: Errors by which networks refuse an input. A framework's own error has any of these types.
REFUSALS = (
    *(RuntimeError, ValueError, AssertionError, IndexError, TypeError, AttributeError, KeyError),
)


def blank_images(model: nn.Module, shape: Shape) -> Tensor:
    """Return two images of zeros, (2, C, H, W), on the device of a model."""
    device = next((parameter.device for parameter in model.parameters()), torch.device('cpu'))
    return torch.zeros(IMAGES, *shape, device=device)


@contextmanager
def unchanged(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Put a model in a mode while the body runs, without gradients; restore all it changes.

    Modes, buffers such as BatchNorm statistics, and the random states of Python, NumPy and torch
    are restored. Parts that a forward adds are removed: they would change the order in which
    ``init_weights`` draws (DDQ DETR).

    Args:
        model: The network.
        training: Whether it runs in training mode.
    """
    modes = {module: module.training for module in model.modules()}
    parts = [
        (own, dict(own))
        for module in modes
        for own in (module._modules, module._parameters, module._buffers)
    ]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if training else []
    own_states = random.getstate(), np.random.get_state()
    model.train(training)
    try:
        with torch.random.fork_rng(devices=_cuda_devices(model)), torch.no_grad():
            yield
    finally:
        for own, content in parts:
            own.clear()
            own.update(content)  # type: ignore[arg-type]
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        random.setstate(own_states[0])
        np.random.set_state(own_states[1])


def run_blank(
    model: nn.Module,
    adapter: Adapter,
    shape: Shape,
    paths: frozenset[str] = frozenset(),
    scores: bool = True,
) -> None:
    """Run a model on blank images of a shape (C, H, W); see :func:`unchanged`."""
    inputs = blank_images(model, shape)
    samples: Any = adapter.blank_samples(inputs)
    adapter.run(model, inputs, scores=scores, paths=paths, data_samples=samples)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.device.type == 'cuda'})
