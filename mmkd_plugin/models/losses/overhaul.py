"""Overhaul loss: partial L2 distance between maps before a ReLU (Heo et al., 2019)."""

import math

import torch
from torch import Tensor

from mmkd_plugin.models.losses.functional import (
    align,
    at_least_float32,
    partial_squares_,
    wrong_shapes,
)


def overhaul_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    r"""Compute the partial L2 distance between maps before a ReLU, above a margin.

    .. math:: L = \frac{1}{N} \sum_{n, c, h, w} d_p(s, \max(t, m_c)), \quad
              d_p(s, t) = 0 \text{ if } s \le t \le 0, \quad (s - t)^2 \text{ otherwise}

    The sum over C, H and W is the method's. The caller applies two factors of the method, once for
    all levels. Level i of L has the weight :math:`1 / 2^{L-i-1}`, i from 0, so the deepest level
    has 1. The authors' code divides the whole by 1000.

    Args:
        student: s, the student's map before its ReLU and behind the connector, (N, C, H, W) or
            (N, C). Receives the gradient.
        teacher: t, the teacher's map before its ReLU, with the same N and C. H and W may differ;
            then the larger map is average-pooled to the smaller before the margin. Receives no
            gradient.
        margin: m, of each channel, (C,), see :func:`overhaul_margin`. Receives no gradient.

    Returns:
        A scalar in float32 or wider, whatever the autocast; at least 0.

    Raises:
        ValueError: If the maps differ in more than H and W, or the margin is not (C,).

    Example:
        >>> student, teacher = torch.tensor([[1.0, -4.0]]), torch.tensor([[3.0, -1.0]])
        >>> overhaul_loss(student, teacher, torch.tensor([-2.0, -2.0]))  # 4 + 0
        tensor(4.)

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, eq. 2-4;
        github.com/clovaai/overhaul-distillation.
    """
    maps = student, teacher
    student, teacher = align('overhaul_loss', *maps)
    if margin.shape != student.shape[1:2]:
        shapes = dict(student=maps[0], margin=margin)
        raise wrong_shapes('overhaul_loss', 'must be (N, C, ...) and (C,)', **shapes)
    channels = margin.detach().to(student.dtype).view(-1, *[1] * (student.ndim - 2))
    target = torch.maximum(teacher, channels)
    return partial_squares_(student - target, target).sum() / len(student)


def overhaul_margin(bn_weight: Tensor, bn_bias: Tensor) -> Tensor:
    r"""Compute the mean of each BatchNorm channel where it is negative, the margin of the loss.

    .. math:: m = E[x \mid x < 0]
              = \beta - \sigma \frac{\varphi(\beta / \sigma)}{\Phi(-\beta / \sigma)}, \quad
              x \sim N(\beta, \sigma^2), \quad \sigma = |\gamma|

    The student matches the teacher down to this value. A channel with :math:`\gamma = 0` has the
    limit, min(beta, 0).

    Args:
        bn_weight: gamma, (C,), of the teacher's BatchNorm before the ReLU.
        bn_bias: beta, (C,).

    Returns:
        (C,), never above 0, in float32 or wider, without gradient. It is computed in float64, and
        accurate even for channels that are almost never, or always, negative.

    Raises:
        ValueError: If the inputs are not both (C,).

    Example:
        >>> overhaul_margin(torch.tensor([1.0]), torch.tensor([0.0]))  # -sqrt(2 / pi)
        tensor([-0.7979])

    Reference:
        As for :func:`overhaul_loss`. The authors' code replaces the margin by -3 |gamma|, which is
        far lower, where x < 0 has a probability of at most 0.001. This function does not.
    """
    if bn_weight.ndim != 1 or bn_weight.shape != bn_bias.shape:
        shapes = dict(bn_weight=bn_weight, bn_bias=bn_bias)
        raise wrong_shapes('overhaul_margin', 'must both be (C,)', **shapes)
    gamma, beta = at_least_float32(bn_weight.detach(), bn_bias.detach())
    dtype = gamma.dtype
    sigma, beta = gamma.double().abs(), beta.double()
    z = beta / sigma.clamp_min(torch.finfo(torch.float64).tiny)
    # Density over tail probability. Both underflow from z = 38 on, so erfcx leaves out the common
    # exponential. Above z = 100 beta - sigma * quotient loses digits, so its series is used.
    quotient = math.sqrt(2.0 / math.pi) / torch.special.erfcx(z / math.sqrt(2.0))
    series = -sigma / z * (1.0 - 2.0 / z**2 + 10.0 / z**4 - 74.0 / z**6)
    return torch.where(z <= 100.0, beta - sigma * quotient, series).to(dtype)
