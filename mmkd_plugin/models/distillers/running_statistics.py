"""A training forward that leaves no trace in BatchNorm."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def statistics_kept(*networks: nn.Module) -> Iterator[None]:
    """Normalise by the batch, as in training, without moving the running statistics.

    A network that is asked for its answer in mid-training must say what it would say if it were learning from this batch; but the
    batch has its say in the statistics once, when the network does learn from it. Layers in eval mode stay as they are.
    """
    layers = [
        layer
        for network in networks
        for layer in network.modules()
        if layer.training and getattr(layer, 'track_running_stats', False) is True
    ]
    for layer in layers:
        layer.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True  # type: ignore[assignment]
