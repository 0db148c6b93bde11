"""Layer-wise relevance propagation: the rules for convolutional networks, by Zennit."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zennit.canonizers import MergeBatchNorm
from zennit.composites import EpsilonPlusFlat
from zennit.rules import ZBox
from zennit.types import BatchNorm, Convolution, Linear

_SUMS = {'add', 'add_', '__add__', '__iadd__', '__radd__'}


def rules_for(
    model: nn.Module, scores: Callable[[Tensor], Tensor], batches: Sequence[Tensor]
) -> EpsilonPlusFlat:
    """Return the rules of one network.

    They are z+ for convolutions, epsilon for linear layers, and z-box for the first convolution,
    whose input are the pixels. Biases receive nothing, so that no relevance is lost to them.

    Args:
        model: The network, in eval mode.
        scores: Runs it. One call shows which layers a BatchNorm follows.
        batches: All preprocessed images. The least and the greatest value of each colour are the
            bounds of the z-box.
    """
    image = batches[0][:1].clone().requires_grad_()
    pairs = norm_pairs(model, lambda: scores(image))
    least = torch.stack([batch.amin(dim=(0, 2, 3)) for batch in batches]).amin(dim=0)
    greatest = torch.stack([batch.amax(dim=(0, 2, 3)) for batch in batches]).amax(dim=0)
    none = ['bias']
    box = ZBox(least.view(1, -1, 1, 1), greatest.view(1, -1, 1, 1), zero_params=none)
    return EpsilonPlusFlat(
        first_map=[(Convolution, box)],
        zero_params=none,
        canonizers=[MergeFollowingNorm(pairs)],
    )


@contextmanager
def relevance_as_gradient(model: nn.Module, rules: EpsilonPlusFlat) -> Iterator[None]:
    """While entered, gradients of what ``model`` computes are relevance, in sums as well."""
    with rules.context(model), SharedSums():
        yield


class MergeFollowingNorm(MergeBatchNorm):
    """Merge a BatchNorm into the layer whose output it reads, while a composite is registered.

    Zennit's own canonizer goes by the order in which modules were registered. In pre-activation
    networks this is not the order of calls, and a BatchNorm may follow a sum.

    Args:
        pairs: A linear layer or convolution and the BatchNorm each; see :func:`norm_pairs`.
    """

    def __init__(self, pairs: list[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.pairs = pairs

    def apply(self, root_module: nn.Module) -> list['MergeFollowingNorm']:
        merged = []
        for layer, norm in self.pairs:
            one = MergeFollowingNorm([])
            one.register((layer,), norm)
            merged.append(one)
        return merged


def norm_pairs(model: nn.Module, run: Callable[[], Tensor]) -> list[tuple[nn.Module, nn.Module]]:
    """Find the layers whose output goes into a BatchNorm and nowhere else, each with the BatchNorm.

    Args:
        model: The network, in eval mode.
        run: Runs it once, with gradient from the image to the output.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU()).eval()
        >>> norm_pairs(model, lambda: model(torch.ones(1, 2))) == [(model[0], model[1])]
        True
    """
    # With the tensor, because an id is unique only as long as its object lives.
    made: dict[int, tuple[nn.Module, Tensor]] = {}
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
    """Count the operations that read the result of each operation, on the way to ``output``."""
    found: Counter[Any] = Counter()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                if node not in found:
                    waiting.append(node)
                found[node] += 1
    return found


class SharedSums(TorchFunctionMode):
    r"""While entered, the backward pass of a sum shares its relevance among the terms.

    For :math:`z = a + b` with relevance R,

    .. math:: R_a = R\,\frac{\max(s a, 0)}{\max(s a, 0) + \max(s b, 0)}, \qquad s = \mathrm{sign}(z)

    The shares sum to R. This is the z+ rule, because a sum is a linear layer: a term against the
    sign of the result receives nothing. Shares by :math:`a / z` would grow without bound if the
    terms cancel, and the plain gradient would give all of R to both. Zennit's rules are bound to
    modules, and the plus signs of residual networks are no modules. Sums with constants, or of
    other shapes, stay as they are.

    Example:
        >>> a, b = torch.tensor([3.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
        >>> with SharedSums():
        ...     z = a + b
        >>> [share.item() for share in torch.autograd.grad(z, [a, b], torch.tensor([8.0]))]
        [6.0, 2.0]

    Reference:
        Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
        Relevance Propagation, PLOS ONE 2015. The z+ rule: Montavon et al., Explaining nonlinear
        classification decisions with deep Taylor decomposition, 2017.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, '__name__', '') in _SUMS and len(args) == 2 and not kwargs:
            one, other = args
            if (
                all(isinstance(term, Tensor) and term.requires_grad for term in args)
                and one.shape == other.shape
            ):
                return _SharedSum.apply(one, other)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _SharedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(one, other)
        return one + other

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        one, other = ctx.saved_tensors
        sign = torch.where(one + other < 0, -1.0, 1.0).to(one.dtype)
        one = (one * sign).clamp_min(0)  # the amount that has the sign of the sum
        other = (other * sign).clamp_min(0)
        share = relevance / (one + other).clamp_min(torch.finfo(one.dtype).tiny)
        return one * share, other * share
