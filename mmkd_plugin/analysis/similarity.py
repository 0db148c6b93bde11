"""Linear CKA between the layers of teachers, student, its parts and other networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mmkd_plugin.analysis.features import layer_name, layer_taps, record_features
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.parts import UNSPLIT, DistilledNetworks, Part
from mmkd_plugin.models.losses import linear_cka

#: A heat map with more rows shows no numbers: they would be illegible.
MOST_ROWS = 40
#: Network and layer of a row.
Name = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Layer:
    """Features of one layer, or of one part of its channels.

    Args:
        network: Name of the network.
        name: Name of the layer or part.
        features: One row an image, (N, D).
    """

    network: str
    name: str
    features: Tensor


@dataclass(frozen=True, eq=False)
class Similarity:
    """Linear CKA of every layer with every other.

    Args:
        names: Network and layer of each row.
        values: CKA between 0 and 1, (L, L).
        chance: CKA with the images of one side in another order, (L, L), so that nothing is
            shared. A value that is not well above it is no similarity. It grows as there are
            fewer images for the features.
        images: N.
    """

    names: list[Name]
    values: Tensor
    chance: Tensor
    images: int

    def of(self, one: Name, other: Name) -> dict[str, float]:
        """Return ``cka`` and ``chance`` of two layers."""
        place = self.names.index(one), self.names.index(other)
        return dict(cka=float(self.values[place]), chance=float(self.chance[place]))


def similarity(networks: DistilledNetworks, batches: Sequence[Any], depth: int = 2) -> Similarity:
    """Compare all layers: teachers first, then the student, its parts, and the others.

    The channels of a part are taken from other networks too, if their map at the tap has as many
    channels. They show how similar two halves are in a network that was not split.

    Args:
        networks: The networks.
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


def layers_of(networks: DistilledNetworks, batches: Sequence[Any], depth: int) -> list[Layer]:
    """Return all rows; the features of one network at a time are in memory."""
    layers = []
    for index, teacher in enumerate(networks.teachers):
        wanted = [part.teacher[1] for part in networks.parts if part.teacher[0] == index]
        layers += _layers(teacher, batches, depth, wanted, ())
    taps = [part.tap for part in networks.parts]
    layers += _layers(networks.student, batches, depth, taps, networks.parts)
    for other in networks.others:
        paths = dict(other.model.named_modules())
        shared = [part for part in networks.parts if part.tap in paths]
        taps = [part.tap for part in shared]
        layers += _layers(other, batches, depth, taps, shared, UNSPLIT)
    return layers


def _layers(
    network: LoadedNetwork,
    batches: Sequence[Any],
    depth: int,
    wanted: Sequence[str],
    parts: Sequence[Part],
    prefix: str = '',
) -> list[Layer]:
    taps = layer_taps(network, batches[0], depth, wanted)
    features = record_features(network, [*taps, *wanted], batches)
    layers = [Layer(network.name, layer_name(tap), compact(features[tap])) for tap in taps]
    for part in parts:
        values = features[part.tap]
        if values.shape[1] == part.channels:
            layers.append(Layer(network.name, f'{prefix}{part.name}', compact(part.of(values))))
    return layers


def compact(features: Tensor) -> Tensor:
    """Return features (N, D) with D <= N that have the same CKA.

    The inner products of centred images stay the same.

    Example:
        >>> compact(torch.randn(5, 100)).shape
        torch.Size([5, 5])
    """
    rows = features.flatten(1)
    rows = rows - rows.mean(dim=0)
    if rows.shape[1] <= len(rows):
        return rows
    values, vectors = torch.linalg.eigh((rows @ rows.mT).double())
    return (vectors * values.clamp_min(0).sqrt()).float()


def pairs_of_interest(networks: DistilledNetworks, found: Similarity) -> list[tuple[Name, Name]]:
    """Return the pairs of rows that show whether IE-KD had its effect.

    They are the two parts, and each part and their whole map with the teacher's map; likewise in
    the other networks.
    """
    pairs = []
    for network, prefix in (
        (networks.student, ''),
        *((other, UNSPLIT) for other in networks.others),
    ):
        for inherit, explore in zip(networks.parts[::2], networks.parts[1::2], strict=True):
            teacher = (networks.teachers[inherit.teacher[0]].name, layer_name(inherit.teacher[1]))
            one, other = ((network.name, f'{prefix}{part.name}') for part in (inherit, explore))
            pairs += [
                (one, other),
                (one, teacher),
                (other, teacher),
                ((network.name, layer_name(inherit.tap)), teacher),
            ]
    return [pair for pair in pairs if set(pair) <= set(found.names)]


def draw_similarity(found: Similarity) -> Figure:
    """Draw a heat map of all layers, from 0 to 1, with lines between networks."""
    count = len(found.names)
    side = 2.5 + 0.34 * count
    figure = Figure(figsize=(side + 1, side), dpi=130, layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(found.values, cmap='viridis', vmin=0.0, vmax=1.0)
    labels = [f'{network}: {layer}' for network, layer in found.names]
    axes.set_xticks(range(count), labels, rotation=90)
    axes.set_yticks(range(count), labels)
    for row in range(1, count):
        if found.names[row][0] != found.names[row - 1][0]:
            axes.axvline(row - 0.5, color='white', linewidth=2)
            axes.axhline(row - 0.5, color='white', linewidth=2)
    if count <= MOST_ROWS:
        _write_numbers(axes, found.values)
    rows, columns = torch.tril_indices(count, count, offset=-1)
    pairs = found.chance[rows, columns]
    chance = (
        f'; of unrelated images {pairs.mean():.2f}, at most {pairs.max():.2f}' if len(pairs) else ''
    )
    axes.set_title(f'linear CKA over {found.images} images{chance}', loc='left', fontsize=10)
    figure.colorbar(image, ax=axes, label='linear CKA', shrink=0.6)
    return figure


def _write_numbers(axes: Axes, values: Tensor) -> None:
    centred: dict[str, Any] = dict(ha='center', va='center')
    for row, column in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
        value = float(values[row, column])
        ink = 'black' if value > 0.6 else 'white'
        axes.text(column, row, f'{value:.2f}', color=ink, fontsize=6.5, **centred)
