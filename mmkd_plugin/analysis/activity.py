"""How many neurons are active in the maps that are distilled, and in their parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmkd_plugin.analysis.features import record_features
from mmkd_plugin.analysis.networks import Network, Networks
from mmkd_plugin.analysis.parts import Part
from mmkd_plugin.analysis.similarity import shown


@dataclass(frozen=True)
class Activity:
    """Active neurons of one map; a neuron is one place of one channel, and active where it is above 0.

    Args:
        network: Whose map.
        name: The map, or a part of it.
        active: The active part of all neurons, mean over images.
        spread: Standard deviation over images.
        dead_channels: The part of the channels that no image activates anywhere.
    """

    network: str
    name: str
    active: float
    spread: float
    dead_channels: float


def activities(networks: Networks, batches: Sequence[Any]) -> list[Activity]:
    """Of the teachers' maps, the student's and its parts, and in other networks of the same channels.

    Raises:
        ValueError: If the config has no IE-KD, which alone says which maps.
    """
    if not networks.parts:
        raise ValueError(
            "config: expected a method 'IEKD', whose maps and parts are looked at, got none"
        )
    found = []
    for number, teacher in enumerate(networks.teachers):
        taps = [part.teacher[1] for part in networks.parts if part.teacher[0] == number]
        found += _of(teacher, taps, (), batches)
    for other in networks.others:
        known = dict(other.model.named_modules())
        parts = [part for part in networks.parts if part.tap in known]
        found += _of(other, [part.tap for part in parts], parts, batches, 'channels of ')
    return [
        *found,
        *_of(networks.student, [part.tap for part in networks.parts], networks.parts, batches),
    ]


def _of(
    network: Network,
    taps: Sequence[str],
    parts: Sequence[Part],
    batches: Sequence[Any],
    prefix: str = '',
) -> list[Activity]:
    features = record_features(network, taps, batches) if taps else {}
    found = [activity(network.name, shown(tap), values) for tap, values in features.items()]
    for part in parts:
        values = features[part.tap]
        if values.shape[1] == part.channels:
            found.append(activity(network.name, f'{prefix}{part.name}', part.of(values)))
    return found


def activity(network: str, name: str, values: Tensor) -> Activity:
    """Of a map (N, C, H, W) or features (N, C)."""
    active = values > 0
    images = active.flatten(1).float().mean(dim=1)
    alive = active.transpose(0, 1).flatten(1).any(dim=1).float()
    return Activity(
        network,
        name,
        float(images.mean()),
        float(images.std(correction=0)),
        1.0 - float(alive.mean()),
    )
