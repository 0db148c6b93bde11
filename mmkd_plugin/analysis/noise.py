"""Loss and accuracy of a network whose weights are disturbed by noise."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.errors import non_negative_number, positive_integer

LEVELS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class NoisePoint:
    """Results of one network at one level of noise.

    Args:
        network: Name of the network.
        level: The level of noise.
        losses: Mean cross-entropy over the images, one value a draw.
        accuracies: Accuracy in percent, one value a draw.
    """

    network: str
    level: float
    losses: list[float]
    accuracies: list[float]


@torch.no_grad()
def add_noise(model: nn.Module, level: float, seed: int) -> None:
    r"""Add Gaussian noise to every weight of ``model``, in place, relative to its filter.

    .. math:: w \leftarrow w + \sigma \, \mathrm{rms}(w_{o}) \, n, \quad n \sim N(0, 1)

    :math:`w_o` are the weights of one output channel. For vectors (biases, scales of BatchNorm) it
    is the number itself. So noise does not depend on the scale of a filter, which BatchNorm removes
    again.

    Args:
        model: The network, which is changed.
        level: :math:`\sigma`; 0 changes nothing.
        seed: Seeds the draw, which is the same on every device.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> layer.weight.data = torch.tensor([[0.0, 0.0]])
        >>> add_noise(layer, 0.5, seed=0)
        >>> layer.weight.tolist()
        [[0.0, 0.0]]

    Reference:
        Noise relative to filters: Li et al., Visualizing the Loss Landscape of Neural Nets,
        NeurIPS 2018, section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    for weights in model.parameters():
        noise = torch.randn(weights.shape, generator=generator, dtype=torch.float32).to(weights)
        others = tuple(range(1, weights.ndim))  # the dimensions of one output channel
        around = weights.square().mean(dim=others, keepdim=True).sqrt() if others else weights.abs()
        weights.add_(level * around * noise)


def noise_curve(
    network: LoadedNetwork, batches: Sequence[Any], levels: Sequence[float], seeds: int
) -> list[NoisePoint]:
    """Measure copies of a network at every level of noise; level 0 is measured once.

    Args:
        network: A classifier, which stays as it is.
        batches: Raw batches with labels.
        levels: Levels of noise, each at least 0.
        seeds: Draws of the noise at each level. Networks of the same shape get the same draws.

    Raises:
        ConfigError: If a level is below 0, there is no draw, or the network is no classifier.
    """
    levels = [non_negative_number('--levels', level) for level in levels]
    positive_integer('--seeds', seeds)
    inputs = [network.inputs(raw) for raw in batches]
    labels = [network.labels(raw) for raw in batches]
    found = []
    for level in levels:
        losses, accuracies = [], []
        for seed in range(seeds if level else 1):
            noisy = copy.deepcopy(network)
            add_noise(noisy.model, level, seed)
            loss, accuracy = loss_and_accuracy(noisy, inputs, labels)
            losses.append(loss)
            accuracies.append(accuracy)
        found.append(NoisePoint(network.name, level, losses, accuracies))
    return found


@torch.no_grad()
def loss_and_accuracy(
    network: LoadedNetwork, inputs: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[float, float]:
    """Return the mean cross-entropy, and the accuracy in percent, over preprocessed batches."""
    network.request_scores()
    total, right, images_seen = 0.0, 0, 0
    for images, classes in zip(inputs, labels, strict=True):
        scores = network.scores(images)
        total += float(F.cross_entropy(scores.float(), classes.to(scores.device), reduction='sum'))
        right += int((scores.argmax(dim=1) == classes.to(scores.device)).sum())
        images_seen += len(classes)
    return total / images_seen, 100.0 * right / images_seen


def draw_noise(found: Sequence[NoisePoint], images: int) -> Figure:
    """Draw a line for each network, the mean over draws, and the range of all draws.

    Args:
        found: The measurements.
        images: Number of images, for the title.
    """
    figure = Figure(figsize=(10, 4), dpi=130, layout='constrained')
    loss, accuracy = figure.subplots(1, 2)
    networks = list(dict.fromkeys(one.network for one in found))
    for number, network in enumerate(networks):
        curve = [one for one in found if one.network == network]
        levels = [one.level for one in curve]
        for axes, values in (
            (loss, [one.losses for one in curve]),
            (accuracy, [one.accuracies for one in curve]),
        ):
            colour = f'C{number}'
            means = list(map(fmean, values))
            axes.plot(levels, means, 'o-', markersize=4, color=colour, label=network)
            least, most = list(map(min, values)), list(map(max, values))
            axes.fill_between(levels, least, most, color=colour, alpha=0.15, linewidth=0)
    loss.set_ylabel('cross-entropy')
    loss.set_yscale('log')
    loss.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    loss.yaxis.set_major_formatter(ScalarFormatter())
    loss.yaxis.set_minor_locator(NullLocator())
    accuracy.set_ylabel('accuracy in %')
    accuracy.set_ylim(0.0, 100.0)
    seeds = max(len(one.losses) for one in found)
    for axes in (loss, accuracy):
        axes.set_xlabel('noise, relative to the weights')
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    loss.legend()
    figure.suptitle(
        f'weights disturbed: mean and range of {seeds} draws, {images} images', fontsize=10
    )
    return figure
