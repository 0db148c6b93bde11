"""Loss and accuracy of a network whose weights are disturbed."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.analysis.networks import Network
from mmkd_plugin.errors import non_negative_number, positive_integer

LEVELS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True)
class Disturbed:
    """One network at one level of noise: cross-entropy and accuracy (in percent) over the images, one value a seed."""

    network: str
    level: float
    losses: list[float]
    accuracies: list[float]


@torch.no_grad()
def disturb(model: nn.Module, level: float, seed: int) -> None:
    r"""Add Gaussian noise to every weight of ``model``, in place, relative to the size of the weights around it.

    .. math:: w \leftarrow w + \sigma \, \mathrm{rms}(w_{o}) \, n, \quad n \sim N(0, 1)

    :math:`w_o` are the weights of one output channel, and of vectors (biases, scales of BatchNorm) the number itself. So noise
    does not depend on the scale of a filter, which BatchNorm takes out again.

    Args:
        model: Changed.
        level: :math:`\sigma`; at 0 nothing is changed.
        seed: Of the draw, the same on every device.

    Source: of noise relative to filters Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    for weights in model.parameters():
        noise = torch.randn(weights.shape, generator=generator, dtype=torch.float32).to(weights)
        others = tuple(range(1, weights.ndim))  # of one output channel
        around = weights.square().mean(dim=others, keepdim=True).sqrt() if others else weights.abs()
        weights.add_(level * around * noise)


def noise_curve(
    network: Network, batches: Sequence[Any], levels: Sequence[float], seeds: int
) -> list[Disturbed]:
    """Measure ``network``, which stays as it is, at every level; at level 0 once.

    Args:
        network: With class scores.
        batches: Raw batches with labels.
        levels: Of the noise, each at least 0.
        seeds: Draws of the noise at each level; the draws are those of every network of the same shape.

    Raises:
        ValueError: If a level is below 0 or there is no draw, or the network gives no class scores.
    """
    levels = [non_negative_number('--levels', level) for level in levels]
    positive_integer('--seeds', seeds)
    inputs = [network.inputs(raw) for raw in batches]
    labels = [network.labels(raw) for raw in batches]
    found = []
    for level in levels:
        losses, accuracies = [], []
        for seed in range(seeds if level else 1):
            model = copy.deepcopy(network.model)
            disturb(model, level, seed)
            loss, accuracy = plain_loss(replace(network, model=model), inputs, labels)
            losses.append(loss)
            accuracies.append(accuracy)
        found.append(Disturbed(network.name, level, losses, accuracies))
    return found


@torch.no_grad()
def plain_loss(
    network: Network, inputs: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[float, float]:
    """Mean cross-entropy, and accuracy in percent, of preprocessed batches."""
    taps = FeatureTaps(network.model, network.require_scores(), network.name)
    total, right, images_seen = 0.0, 0, 0
    for images, classes in zip(inputs, labels, strict=True):
        scores = network.scores(taps, images)
        total += float(F.cross_entropy(scores.float(), classes.to(scores.device), reduction='sum'))
        right += int((scores.argmax(dim=1) == classes.to(scores.device)).sum())
        images_seen += len(classes)
    return total / images_seen, 100.0 * right / images_seen
