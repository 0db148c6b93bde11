"""Relevance of pixels for a class score, of the whole network and through one part of a map."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.adapters.maps import as_maps, from_map
from mmkd_plugin.adapters.replaced import replaced
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.analysis.network import LoadedNetwork
from mmkd_plugin.analysis.parts import DistilledNetworks, Part
from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.installed import has

RULES = ('lrp', 'gradients')
#: Largest share of the scores that may be lost between the layers.
MOST_LOST = 0.25


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance maps of one network, or of one part of the student, for all images.

    Args:
        name: Name of the network or part.
        maps: The share of each pixel in the score, summed over colours, (N, H, W).
        scores: Score of the image's own class, before the softmax, (N,).
        labels: That class, (N,).
        predictions: Class of the largest score, (N,).
        whole: Name of the network of a part; ``''`` for a network.
    """

    name: str
    maps: Tensor
    scores: Tensor
    labels: Tensor
    predictions: Tensor
    whole: str = ''

    @property
    def sums(self) -> Tensor:
        """The share of all pixels together in the score, (N,)."""
        return self.maps.sum(dim=(1, 2))


def relevances(
    networks: DistilledNetworks, batches: Sequence[Any], rule: str = 'lrp'
) -> list[Relevance]:
    """Return the relevance of teachers, other networks and the student; then of each of its parts.

    Args:
        networks: Classifiers.
        batches: Raw batches with labels.
        rule: ``'lrp'`` or ``'gradients'``; see :func:`relevance`.

    Raises:
        ConfigError: See :func:`relevance`.
    """
    found = [relevance(network, batches, rule) for network in networks.all]
    return [*found, *(relevance(networks.student, batches, rule, part) for part in networks.parts)]


def relevance(
    network: LoadedNetwork, batches: Sequence[Any], rule: str = 'lrp', part: Part | None = None
) -> Relevance:
    r"""Return the relevance of pixels for the score of each image's own class.

    ``'lrp'`` is layer-wise relevance propagation. The score is passed down from layer to layer.
    Each neuron shares its relevance among its inputs, by what they contributed to it. Nothing is
    lost on the way: the pixels sum to the score.

    ``'gradients'`` are integrated gradients, :math:`(x - x_0) \odot \int_0^1 \nabla s(x_0 + a (x -
    x_0))\,da`, from the input :math:`x_0 = 0`, the mean colour. They need no rules, and sum to
    :math:`s(x) - s(x_0)`. They are noisier.

    The relevance of a part of a map is the amount of the same relevance that passes through its
    channels on the way down: the rest of the map is set to 0 there. If every path from the image to
    the score leads through the map, the parts sum to the whole, pixel by pixel.

    Args:
        network: A classifier.
        batches: Raw batches with labels.
        rule: ``'lrp'`` or ``'gradients'``.
        part: Restricts the relevance to the channels of this part.

    Raises:
        ConfigError: If Zennit is not installed, the network is no classifier, or an image has not
            one label. With ``'lrp'`` also if the pixels do not sum to the score: the network has
            layers (attention, gates) without a rule.

    Reference:
        Bach et al., PLOS ONE 2015; the choice of rules: Montavon et al., Layer-Wise Relevance
        Propagation: An Overview, 2019. Sundararajan et al., Axiomatic Attribution for Deep
        Networks, ICML 2017. Parts: Achtibat et al., From attribution maps to human-understandable
        explanations through Concept Relevance Propagation, 2023, section 2.
    """
    one_of('--rule', rule, RULES)
    if not has('zennit'):
        raise ConfigError(
            '--rule', 'needs Zennit, which is not installed', 'Run: pip install zennit'
        )
    from zennit.attribution import Gradient, IntegratedGradients

    from mmkd_plugin.analysis.lrp import relevance_as_gradient, rules_for

    network.request_scores()
    attribute = (
        Gradient(network.scores)
        if rule == 'lrp'
        else IntegratedGradients(network.scores, n_iter=32)
    )
    every = [network.inputs(raw) for raw in batches]
    if part is not None and every:
        _measure_layout(network, part.tap, every[0])
    rules = rules_for(network.model, network.scores, every) if rule == 'lrp' else None
    found: list[tuple[Tensor, ...]] = []
    for raw, inputs in zip(batches, every, strict=True):
        labels = network.labels(raw).to(inputs.device)

        def start(output: Tensor, labels: Tensor = labels) -> Tensor:
            own = torch.nn.functional.one_hot(labels, output.shape[1]).to(output)
            return own * output.detach() if rule == 'lrp' else own

        # The part comes first: a rule bound to the tapped layer itself must receive the masked
        # relevance.
        with (
            passing_only(network, part, inputs),
            relevance_as_gradient(network.model, rules) if rules else nullcontext(),
        ):
            output, pixels = attribute(inputs, start)
        output = output.detach()
        own_score = output.gather(1, labels[:, None])[:, 0]
        found.append((pixels.detach().sum(dim=1), own_score, labels, output.argmax(dim=1)))
    maps, scores, classes, predictions = (
        torch.cat(values).cpu() for values in zip(*found, strict=True)
    )
    if part is not None:
        return Relevance(part.name, maps, scores, classes, predictions, network.name)
    result = Relevance(network.name, maps, scores, classes, predictions)
    if rule == 'lrp':
        _require_kept(result)
    return result


def passing_only(
    network: LoadedNetwork, part: Part | None, inputs: Tensor
) -> AbstractContextManager[None]:
    """While entered, the gradient of a map passes through the channels of one part alone.

    Args:
        network: The network, which runs in the body.
        part: The part; None lets everything pass.
        inputs: The preprocessed batch, (N, C, H, W).
    """
    if part is None:
        return nullcontext()

    def masked(output: Tensor) -> Tensor:
        feature = as_maps(network, {part.tap: output}, inputs)[part.tap]
        mask = from_map(network, part.tap, part.mask(feature), torch.zeros_like(output))
        own = output.clone()  # the gradient of other readers of the map stays whole
        if own.requires_grad:
            own.register_hook(lambda gradient: gradient * mask)
        return own

    return replaced(network.model, part.tap, masked, network.name)


def _measure_layout(network: LoadedNetwork, tap: str, inputs: Tensor) -> None:
    """Measure the layout of a tap in a forward of its own: the rules would change that one."""
    tapped = TappedModel(network.model, network.name)
    tapped.request([tap])
    with torch.no_grad():
        tapped.observe(inputs[:1])
    network.layouts |= tapped.layouts


def _require_kept(found: Relevance) -> None:
    lost = (found.sums - found.scores).abs().sum() / found.scores.abs().sum().clamp_min(1e-12)
    if not lost <= MOST_LOST:
        raise ConfigError(
            '--rule',
            f'lrp needs a network of convolutions, linear layers, BatchNorm, ReLU, pooling and '
            f'sums, but in {found.name} {lost:.0%} of the scores are lost between the layers',
            'Use --rule gradients.',
            found='lrp',
        )
