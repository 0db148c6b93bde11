"""Outputs of the layers of a network for some images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.adapters.inspect_taps import tap_points
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.errors import ConfigError, positive_integer

#: The features of one network may need this much memory.
MOST_GIB = 8.0


@torch.no_grad()
def layer_taps(
    network: LoadedNetwork, raw: Any, depth: int, wanted: Sequence[str] = ()
) -> list[str]:
    """Return taps of the layers that can be recorded, in execution order.

    One of several names for the same tensor is kept, such as a stage and the last block in it.

    Args:
        network: The network.
        raw: Any raw batch.
        depth: Largest number of parts of a path: 2 for ``backbone.layer1``.
        wanted: Taps to include whatever the depth.

    Raises:
        ConfigError: If ``depth`` is below 1.
    """
    positive_integer('--depth', depth)
    inputs = network.inputs(raw)
    points = tap_points(network.model, tuple(inputs.shape[1:]))
    candidates = [
        point.tap
        for point in points
        if not point.obstacle
        and point.tap.count('.') < depth
        and len(point.shape) > 1
        and point.shape[0] == 1
    ]
    network.request([*candidates, *wanted])
    kept: dict[tuple[int, int], str] = {}
    for tap, values in network.record(inputs[:1]).items():
        same = (values.data_ptr(), values.numel())
        if same not in kept or tap in wanted:
            kept[same] = tap
    return list(kept.values())


@torch.no_grad()
def record_features(
    network: LoadedNetwork, taps: Sequence[str], batches: Sequence[Any]
) -> dict[str, Tensor]:
    """Return the features of all images by tap, (N, …) each, on the CPU.

    Raises:
        ConfigError: If images differ in size, or the features need too much memory.
    """
    network.request(taps)
    found: dict[str, list[Tensor]] = {tap: [] for tap in taps}
    for number, raw in enumerate(batches):
        features = network.record(network.inputs(raw))
        if number == 0:
            bytes_each = sum(value.numel() * value.element_size() for value in features.values())
            needed = bytes_each * len(batches) / 2**30
            if needed > MOST_GIB:
                raise ConfigError(
                    '--images',
                    f'must be so few that the features of {network.name} fit into {MOST_GIB:g} GiB,'
                    f' but they need {needed:.0f} GiB',
                    'Take fewer images, or a smaller --depth.',
                )
        for tap, value in features.items():
            found[tap].append(value.float().cpu())
    try:
        return {tap: torch.cat(values) for tap, values in found.items()}
    except RuntimeError as error:
        problem = f'must hold images of one size after preprocessing: {error}'
        raise ConfigError('--split', problem) from error


def layer_name(tap: str) -> str:
    """Return the name of a tap in pictures.

    Example:
        >>> layer_name('backbone.layer3'), layer_name('neck')
        ('layer3', 'neck')
    """
    return tap.removeprefix('backbone.')
