"""Share of active neurons in the distilled maps and in their parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from mmkd_plugin.analysis.features import layer_name, record_features
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.parts import UNSPLIT, DistilledNetworks, Part
from mmkd_plugin.errors import ConfigError


@dataclass(frozen=True)
class Activity:
    """Active neurons of one map.

    A neuron is one channel at one location. It is active if its value is above 0.

    Args:
        network: Name of the network.
        name: Name of the map or part.
        active: Share of active neurons, mean over images.
        spread: Its standard deviation over images.
        dead_channels: Share of the channels that no image activates anywhere.
    """

    network: str
    name: str
    active: float
    spread: float
    dead_channels: float


def activities(networks: DistilledNetworks, batches: Sequence[Any]) -> list[Activity]:
    """Measure the maps of the teachers, of other networks and of the student, and its parts.

    The channels of a part are measured in other networks too, if their map has as many channels.

    Raises:
        ConfigError: If the config has no IE-KD, which alone states the maps.
    """
    if not networks.parts:
        raise ConfigError(
            'config',
            "needs a method 'IEKD', which states the maps and parts that are measured",
            'cka works without it.',
        )
    found = []
    for index, teacher in enumerate(networks.teachers):
        taps = [part.teacher[1] for part in networks.parts if part.teacher[0] == index]
        found += _measure(teacher, taps, (), batches)
    for other in networks.others:
        paths = dict(other.model.named_modules())
        parts = [part for part in networks.parts if part.tap in paths]
        found += _measure(other, [part.tap for part in parts], parts, batches, UNSPLIT)
    taps = [part.tap for part in networks.parts]
    return [*found, *_measure(networks.student, taps, networks.parts, batches)]


def _measure(
    network: LoadedNetwork,
    taps: Sequence[str],
    parts: Sequence[Part],
    batches: Sequence[Any],
    prefix: str = '',
) -> list[Activity]:
    features = record_features(network, taps, batches) if taps else {}
    found = [activity(network.name, layer_name(tap), values) for tap, values in features.items()]
    for part in parts:
        values = features[part.tap]
        if values.shape[1] == part.channels:
            found.append(activity(network.name, f'{prefix}{part.name}', part.of(values)))
    return found


def activity(network: str, name: str, values: Tensor) -> Activity:
    """Measure a map (N, C, H, W) or features (N, C).

    Example:
        >>> import torch
        >>> activity('student', 'head', torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
        Activity(network='student', name='head', active=0.5, spread=0.0, dead_channels=0.5)
    """
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


def draw_activity(found: Sequence[Activity], images: int) -> Figure:
    """Draw a bar for each map in the colour of its network, with the spread over images.

    Labels state the share of dead channels.

    Args:
        found: The measurements.
        images: Number of images, for the label of the axis.
    """
    figure = Figure(figsize=(8, 1.3 + 0.35 * len(found)), dpi=130, layout='constrained')
    axes = figure.add_subplot()
    rows = range(len(found))
    networks = list(dict.fromkeys(one.network for one in found))
    axes.barh(
        rows,
        [100 * one.active for one in found],
        xerr=[100 * one.spread for one in found],
        color=[f'C{networks.index(one.network)}' for one in found],
        ecolor='0.3',
        capsize=3,
        height=0.65,
    )
    axes.set_yticks(rows, [_label(one) for one in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.grid(axis='x', alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    # Below the whole figure, because long names leave narrow axes.
    figure.supxlabel(
        f'active neurons in %: mean and standard deviation over {images} images', fontsize=10
    )
    return figure


def _label(one: Activity) -> str:
    dead = f', {one.dead_channels:.0%} of channels dead' if one.dead_channels else ''
    return f'{one.network}: {one.name}{dead}'
