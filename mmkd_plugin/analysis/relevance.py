"""Which pixels a network's class score is owed to, as a whole and through one part of a map."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.adapters.taps import FeatureTaps, replaced
from mmkd_plugin.analysis.networks import Network, Networks
from mmkd_plugin.analysis.parts import Part
from mmkd_plugin.errors import one_of
from mmkd_plugin.installed import has

RULES = ('lrp', 'gradients')


@dataclass(frozen=True, eq=False)
class Relevance:
    """Of one network, or of one part of the student, over all images.

    Args:
        name: Network or part.
        maps: (N, H, W): what each pixel adds to the score; summed over colours.
        scores: (N,): the score of the image's own class, before the softmax.
        labels: (N,): that class.
        predictions: (N,): the class of the best score.
        whole: Of a part: the name of the network that it is a part of.
    """

    name: str
    maps: Tensor
    scores: Tensor
    labels: Tensor
    predictions: Tensor
    whole: str = ''

    @property
    def sums(self) -> Tensor:
        """(N,): what all pixels add to the score."""
        return self.maps.sum(dim=(1, 2))


def relevances(networks: Networks, batches: Sequence[Any], rule: str = 'lrp') -> list[Relevance]:
    """Of teachers, other networks and the student; then of each of its parts.

    Args:
        networks: With class scores.
        batches: Raw batches with labels.
        rule: ``'lrp'`` or ``'gradients'``; see :func:`relevance`.

    Raises:
        ValueError: See :func:`relevance`.
    """
    found = [relevance(network, batches, rule) for network in networks.all]
    return [*found, *(relevance(networks.student, batches, rule, part) for part in networks.parts)]


def relevance(
    network: Network, batches: Sequence[Any], rule: str = 'lrp', part: Part | None = None
) -> Relevance:
    r"""Relevance of pixels for the score of each image's own class.

    ``'lrp'``: layer-wise relevance propagation. The score is handed down from layer to layer; each neuron shares what it gets among
    its inputs, by what they contributed to it. Nothing is lost on the way: the pixels sum to the score.

    ``'gradients'``: integrated gradients, :math:`(x - x_0) \odot \int_0^1 \nabla s(x_0 + a (x - x_0))\,da`, from the input
    :math:`x_0 = 0`, the mean colour. They need no rules, and sum to :math:`s(x) - s(x_0)`; they are noisier.

    The relevance of a part of a map is what of the same relevance goes through its channels on the way down, the rest of the map
    being set to 0 there. If every path from the image to the score leads through the map, the parts sum to the whole, pixel by pixel.

    Args:
        network: With class scores.
        batches: Raw batches with labels.
        rule: ``'lrp'`` or ``'gradients'``.
        part: Whose channels alone count.

    Raises:
        ValueError: If Zennit is not installed, an image has not one label, or by ``'lrp'`` the pixels do not sum to the score: the
            network has layers (attention, gates) that its rules do not know.

    Source: Bach et al., PLOS ONE 2015; the choice of rules: Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019.
    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017. Parts: Achtibat et al., From attribution maps to
    human-understandable explanations through Concept Relevance Propagation, 2023, section 2.
    """
    one_of('--rule', rule, RULES)
    if not has('zennit'):
        raise ValueError(
            "--rule: expected Zennit for relevance, it is not installed: pip install 'mmkd_plugin[analyze]'"
        )
    from zennit.attribution import Gradient, IntegratedGradients

    from mmkd_plugin.analysis.rules import handed_down, rules_for

    taps = FeatureTaps(network.model, network.require_scores(), network.name)
    scores_of = partial(network.scores, taps)
    attribute = Gradient(scores_of) if rule == 'lrp' else IntegratedGradients(scores_of, n_iter=32)
    every = [network.inputs(raw) for raw in batches]
    rules = rules_for(network, taps, every) if rule == 'lrp' else None
    found: list[tuple[Tensor, ...]] = []
    for raw, inputs in zip(batches, every, strict=True):
        labels = network.labels(raw).to(inputs.device)

        def start(output: Tensor, labels: Tensor = labels) -> Tensor:
            own = torch.nn.functional.one_hot(labels, output.shape[1]).to(output)
            return own * output.detach() if rule == 'lrp' else own

        # The part comes first: a rule bound to the tapped layer itself must see what is left of the relevance.
        with (
            only(network, part, inputs),
            handed_down(network.model, rules) if rules else nullcontext(),
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


def only(network: Network, part: Part | None, inputs: Tensor) -> AbstractContextManager[None]:
    """While the network runs inside the ``with``, let what comes back through a map go on through one part's channels alone."""
    if part is None:
        return nullcontext()

    def marked(output: Tensor) -> Tensor:
        feature = network.host.knowledge(network.model, {part.tap: output}, inputs).features[
            part.tap
        ]
        mask = network.host.put_back(torch.zeros_like(output), part.mask(feature))
        own = output.clone()  # what is recorded elsewhere keeps its gradient
        if own.requires_grad:
            own.register_hook(lambda gradient: gradient * mask)
        return own

    return replaced(network.model, part.tap, marked, network.name)


def _require_kept(found: Relevance, most: float = 0.25) -> None:
    lost = (found.sums - found.scores).abs().sum() / found.scores.abs().sum().clamp_min(1e-12)
    if not lost <= most:
        raise ValueError(
            f'--rule: expected a network of convolutions, linear layers, BatchNorm, ReLU, pooling and sums for lrp, got {found.name}, '
            f'in which {lost:.0%} of the scores went astray between the layers; take --rule gradients'
        )
