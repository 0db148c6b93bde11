"""Sums of two maps, as residual networks have them, share relevance among their terms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SUMS = {'add', 'add_', '__add__', '__iadd__', '__radd__'}


class SharedSums(TorchFunctionMode):
    r"""While it is entered, the backward pass of :math:`z = a + b` gives a and b their shares of z's relevance R.

    .. math:: R_a = R\,\frac{\max(s a, 0)}{\max(s a, 0) + \max(s b, 0)}, \qquad s = \mathrm{sign}(z)

    The shares sum to R. This is the z+ rule, a sum being a linear layer: what speaks against the result gets nothing. Shares by
    :math:`a / z` would grow without bound where the terms cancel, and the plain gradient would give all of R to both. Zennit's rules
    are bound to modules, and the plus signs of residual networks are none. Sums with constants, or of other shapes, stay as they are.

    Source: Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation, PLOS
    ONE 2015; the z+ rule: Montavon et al., Explaining nonlinear classification decisions with deep Taylor decomposition, 2017.
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
        one, other = (
            (one * sign).clamp_min(0),
            (other * sign).clamp_min(0),
        )  # what has the sign of the sum
        share = relevance / (one + other).clamp_min(torch.finfo(one.dtype).tiny)
        return one * share, other * share
