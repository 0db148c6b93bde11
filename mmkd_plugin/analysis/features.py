"""What the layers of a network give for some images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.adapters.inspect_taps import tap_points
from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.analysis.networks import Network
from mmkd_plugin.errors import positive_integer

#: More memory than this for the features of one network is refused.
MOST_GIB = 8.0


def layer_taps(network: Network, raw: Any, depth: int, wanted: Sequence[str] = ()) -> list[str]:
    """Taps of the layers that can be recorded, in the order in which they run.

    Of several names for one tensor (a stage, and the last block in it) one is kept.

    Args:
        network: Whose layers.
        raw: Some raw batch.
        depth: The most parts of a path: 2 for ``backbone.layer1``.
        wanted: Taps to have whatever the depth.

    Raises:
        ValueError: If ``depth`` is below 1.
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
    taps = FeatureTaps(network.model, [*candidates, *wanted], network.name)
    with torch.no_grad(), taps.record(network.model) as features:
        network.host.run(network.model, inputs[:1], scores=True)
    kept: dict[tuple[int, int], str] = {}
    for tap, values in features.items():
        same = (values.data_ptr(), values.numel())
        if same not in kept or tap in wanted:
            kept[same] = tap
    return list(kept.values())


@torch.no_grad()
def record_features(
    network: Network, taps: Sequence[str], batches: Sequence[Any]
) -> dict[str, Tensor]:
    """Of every tap the features of all images, (N, ...), on the CPU.

    Raises:
        ValueError: If images differ in size, or the features need too much memory.
    """
    recorder = FeatureTaps(network.model, taps, network.name)
    found: dict[str, list[Tensor]] = {tap: [] for tap in recorder.taps}
    for number, raw in enumerate(batches):
        inputs = network.inputs(raw)
        with recorder.record(network.model) as features:
            network.host.run(network.model, inputs, scores=True)
        seen = network.host.knowledge(network.model, features, inputs).features
        if number == 0:
            needed = (
                sum(value.numel() * value.element_size() for value in seen.values())
                * len(batches)
                / 2**30
            )
            if needed > MOST_GIB:
                raise ValueError(
                    f'--images: expected so few that the features of {network.name} fit into {MOST_GIB:g} GiB, '
                    f'got {needed:.0f} GiB; take fewer, or a smaller --depth'
                )
        for tap, value in seen.items():
            found[tap].append(value.float().cpu())
    try:
        return {tap: torch.cat(values) for tap, values in found.items()}
    except RuntimeError as error:
        raise ValueError(
            f'--split: expected images of one size after preprocessing, got several: {error}'
        ) from error
