"""Linear CKA between the layers of teachers, student, its parts and other networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.analysis.features import layer_taps, record_features
from mmkd_plugin.analysis.networks import Network, Networks
from mmkd_plugin.analysis.parts import Part
from mmkd_plugin.models.losses import linear_cka


@dataclass(frozen=True, eq=False)
class Layer:
    """A row of the heat map: what one layer, or one part of its channels, tells of the images; ``features`` (N, D)."""

    network: str
    name: str
    features: Tensor


@dataclass(frozen=True, eq=False)
class Similarity:
    """Linear CKA of every layer with every other.

    Args:
        names: Network and layer of each row.
        values: (L, L), between 0 and 1.
        chance: (L, L): the same with the images of one side in another order, so that nothing is shared. What is not well
            above it says nothing; it grows as there are fewer images for the features.
        images: N.
    """

    names: list[tuple[str, str]]
    values: Tensor
    chance: Tensor
    images: int

    def of(self, one: tuple[str, str], other: tuple[str, str]) -> dict[str, float]:
        """``cka`` and ``chance`` of two layers, each by network and layer."""
        place = self.names.index(one), self.names.index(other)
        return dict(cka=float(self.values[place]), chance=float(self.chance[place]))


def similarity(networks: Networks, batches: Sequence[Any], depth: int = 2) -> Similarity:
    """Compare all layers, teachers first, then the student, its parts, and the others.

    Of another network that has a map of as many channels at a part's tap, the same channels are taken as well: what two halves
    have in common where nothing told them apart.

    Args:
        networks: To compare.
        batches: Raw batches of at least two images.
        depth: See :func:`~mmkd_plugin.analysis.features.layer_taps`.
    """
    layers = layers_of(networks, batches, depth)
    count = len(layers[0].features)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    values, chance = torch.zeros(2, len(layers), len(layers))
    for row, one in enumerate(layers):
        for column, other in enumerate(layers[: row + 1]):
            values[row, column] = values[column, row] = linear_cka(one.features, other.features)
            chance[row, column] = chance[column, row] = linear_cka(
                one.features, other.features[order]
            )
    return Similarity([(layer.network, layer.name) for layer in layers], values, chance, count)


def layers_of(networks: Networks, batches: Sequence[Any], depth: int) -> list[Layer]:
    """All rows; memory is needed for the features of one network at a time."""
    layers = []
    for number, teacher in enumerate(networks.teachers):
        wanted = [part.teacher[1] for part in networks.parts if part.teacher[0] == number]
        layers += _layers(teacher, batches, depth, wanted, ())
    layers += _layers(
        networks.student, batches, depth, [part.tap for part in networks.parts], networks.parts
    )
    for other in networks.others:
        known = dict(other.model.named_modules())
        shared = [part for part in networks.parts if part.tap in known]
        layers += _layers(
            other, batches, depth, [part.tap for part in shared], shared, 'channels of '
        )
    return layers


def _layers(
    network: Network,
    batches: Sequence[Any],
    depth: int,
    wanted: Sequence[str],
    parts: Sequence[Part],
    prefix: str = '',
) -> list[Layer]:
    taps = layer_taps(network, batches[0], depth, wanted)
    features = record_features(network, [*taps, *wanted], batches)
    layers = [Layer(network.name, shown(tap), compact(features[tap])) for tap in taps]
    for part in parts:
        values = features[part.tap]
        if values.shape[1] == part.channels:
            layers.append(Layer(network.name, f'{prefix}{part.name}', compact(part.of(values))))
    return layers


def shown(tap: str) -> str:
    """A tap as pictures name it."""
    return tap.removeprefix('backbone.')


def compact(features: Tensor) -> Tensor:
    """Features (N, D) of the same inner products between centred images, hence of the same CKA, with D at most N."""
    rows = features.flatten(1)
    rows = rows - rows.mean(dim=0)
    if rows.shape[1] <= len(rows):
        return rows
    values, vectors = torch.linalg.eigh((rows @ rows.mT).double())
    return (vectors * values.clamp_min(0).sqrt()).float()


def pairs_of_interest(
    networks: Networks, found: Similarity
) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """What IE-KD is about: the two parts, and each part and their whole map with the teacher's map; in the others likewise."""
    pairs = []
    for network, prefix in (
        (networks.student, ''),
        *((other, 'channels of ') for other in networks.others),
    ):
        for inherit, explore in zip(networks.parts[::2], networks.parts[1::2], strict=True):
            teacher = (networks.teachers[inherit.teacher[0]].name, shown(inherit.teacher[1]))
            one, other = ((network.name, f'{prefix}{part.name}') for part in (inherit, explore))
            pairs += [
                (one, other),
                (one, teacher),
                (other, teacher),
                ((network.name, shown(inherit.tap)), teacher),
            ]
    return [pair for pair in pairs if set(pair) <= set(found.names)]
