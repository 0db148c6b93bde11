"""Partial L2: an error counts only where it shows behind a ReLU."""

from torch import Tensor


def partial_squares_(difference: Tensor, target: Tensor) -> Tensor:
    r"""Squared errors, but 0 where both networks are off.

    .. math:: d_p(s, t) = 0 \text{ where } s \le t \le 0, \quad (s - t)^2 \text{ elsewhere}

    Args:
        difference: s - t, which is overwritten. NaN stays NaN.
        target: t, or anything of its sign, of the same shape.

    Returns:
        The squares, of the same shape.

    Source: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019.
    """
    both_off = (difference <= 0) & (target <= 0)
    return difference.masked_fill_(both_off, 0.0).square()
