"""The rules by which relevance goes back through a network of convolutions."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from zennit.canonizers import MergeBatchNorm
from zennit.composites import EpsilonPlusFlat
from zennit.rules import ZBox
from zennit.types import BatchNorm, Convolution, Linear

from mmkd_plugin.adapters.taps import FeatureTaps
from mmkd_plugin.analysis.networks import Network
from mmkd_plugin.analysis.sums import SharedSums


class MergeWhatFollows(MergeBatchNorm):
    """Merge a BatchNorm into the layer whose output it reads, as a forward pass shows it, while a composite is registered.

    Zennit's own goes by the order in which modules were registered, which is not the order of calls in pre-activation networks:
    there a BatchNorm may follow a sum.

    Args:
        pairs: Of a linear layer or convolution, and the BatchNorm; see :func:`followers`.
    """

    def __init__(self, pairs: list[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.pairs = pairs

    def apply(self, root_module: nn.Module) -> list['MergeWhatFollows']:
        merged = []
        for layer, norm in self.pairs:
            one = MergeWhatFollows([])
            one.register((layer,), norm)
            merged.append(one)
        return merged


def followers(model: nn.Module, run: Callable[[], Tensor]) -> list[tuple[nn.Module, nn.Module]]:
    """The layers whose output goes into a BatchNorm and nowhere else, and that BatchNorm.

    Args:
        model: In eval mode.
        run: Runs it once, with gradient from the image to what it gives.
    """
    made: dict[
        int, tuple[nn.Module, Tensor]
    ] = {}  # with the tensor, whose id is its own as long as it lives
    read: list[tuple[nn.Module, Tensor]] = []
    handles = []
    for module in model.modules():
        if isinstance(module, Linear):
            handles.append(
                module.register_forward_hook(lambda m, _, out: made.__setitem__(id(out), (m, out)))
            )
        elif (
            isinstance(module, BatchNorm)
            and module.weight is not None
            and module.running_var is not None
        ):
            handles.append(
                module.register_forward_pre_hook(lambda m, args: read.append((m, args[0])))
            )
    try:
        readers = _readers(run())
    finally:
        for handle in handles:
            handle.remove()
    return [
        (made[id(out)][0], norm)
        for norm, out in read
        if id(out) in made and readers[out.grad_fn] == 1
    ]


def _readers(output: Tensor) -> Counter[Any]:
    """By how many operations the result of each operation is read, on the way to ``output``."""
    found: Counter[Any] = Counter()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                if node not in found:
                    waiting.append(node)
                found[node] += 1
    return found


def rules_for(network: Network, taps: FeatureTaps, batches: Sequence[Tensor]) -> EpsilonPlusFlat:
    """The rules of one network: z+ for convolutions, epsilon for linear layers, z-box for the first convolution, which sees pixels.

    Biases get nothing, so that nothing is lost to them.

    Args:
        network: Run once, to see which layers a BatchNorm follows.
        taps: Of its scores.
        batches: All preprocessed images: the least and the greatest value of each colour are the bounds of the z-box.
    """
    image = batches[0][:1].clone().requires_grad_()
    pairs = followers(network.model, lambda: network.scores(taps, image))
    least = (
        torch.stack([batch.amin(dim=(0, 2, 3)) for batch in batches]).amin(dim=0).view(1, -1, 1, 1)
    )
    greatest = (
        torch.stack([batch.amax(dim=(0, 2, 3)) for batch in batches]).amax(dim=0).view(1, -1, 1, 1)
    )
    none = ['bias']
    return EpsilonPlusFlat(
        first_map=[(Convolution, ZBox(least, greatest, zero_params=none))],
        zero_params=none,
        canonizers=[MergeWhatFollows(pairs)],
    )


@contextmanager
def handed_down(model: nn.Module, rules: EpsilonPlusFlat) -> Iterator[None]:
    """While entered, the gradients of what ``model`` computes are relevance; sums share it as well."""
    with rules.context(model), SharedSums():
        yield
