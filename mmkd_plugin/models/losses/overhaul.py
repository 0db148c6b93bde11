"""The overhaul: the student follows the teacher before the ReLU, but only where the ReLU lets something through."""

import math

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number, one_of
from mmkd_plugin.models.losses.comparable import comparable
from mmkd_plugin.models.losses.partial_l2 import partial_squares_
from mmkd_plugin.registry import MODELS

RULES = ('expectation', 'authors')


def overhaul_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    r"""Partial L2 distance of pre-activations from the teacher's, which a margin ReLU has cut off from below.

    .. math:: L = \frac{1}{N} \sum_{n, c, h, w} d_p(s, \max(t, m_c)), \quad
              d_p(s, t) = 0 \text{ where } s \le t \le 0, \quad (s - t)^2 \text{ elsewhere}

    The sum over C, H and W is the method's. Two factors of it are the caller's, to apply once for all levels: level i of L has
    the weight :math:`1 / 2^{L-i-1}`, i from 0, so that the deepest has 1, and the authors' code divides the whole by 1000.

    Args:
        student: s, the student's map before its ReLU and behind the connector, (N, C, H, W) or (N, C). Receives the gradient.
        teacher: t, the teacher's map before its ReLU, with the same N and C; its H and W may differ, and then the larger is
            average-pooled to the smaller before the margin. Receives none.
        margin: m, of each channel, (C,): see :func:`overhaul_margin`.

    Returns:
        A scalar in float32 or wider, whatever the autocast; at least 0.

    Raises:
        ValueError: If the maps differ in more than H and W, or the margin is not (C,).

    Source: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019; github.com/clovaai/overhaul-distillation.
    """
    student, teacher = comparable('overhaul_loss', student, teacher)
    if margin.shape != student.shape[1:2]:
        raise ValueError(
            f'margin: expected one number a channel, ({student.shape[1]},), as the maps are {tuple(student.shape)}, '
            f'got {tuple(margin.shape)}'
        )
    channels = margin.detach().to(student.dtype).view(-1, *[1] * (student.ndim - 2))
    target = torch.maximum(teacher, channels)
    return partial_squares_(student - target, target).sum() / len(student)


def overhaul_margin(bn_weight: Tensor, bn_bias: Tensor, rule: str = 'expectation') -> Tensor:
    r"""What each channel of a BatchNorm gives on average where it is negative: as far down as the teacher is followed.

    .. math:: m = E[x \mid x < 0] = \beta - \sigma \frac{\varphi(\beta / \sigma)}{\Phi(-\beta / \sigma)}, \quad
              x \sim N(\beta, \sigma^2), \quad \sigma = |\gamma|

    A channel with :math:`\gamma = 0` has the limit, min(beta, 0).

    Args:
        bn_weight: gamma, (C,), of the teacher's BatchNorm before the ReLU.
        bn_bias: beta, (C,).
        rule: 'expectation' for all channels; 'authors' has -3 |gamma|, which is far lower, where x < 0 has a probability of at
            most 0.001, as in the authors' code.

    Returns:
        (C,), never above 0, in float32 or wider, without gradient. Computed in float64, and to its last digits even for
        channels that are hardly ever, or always, negative.

    Raises:
        ValueError: If the inputs are not (C,) both, or the rule is unknown.

    Source: as of :func:`overhaul_loss`.
    """
    one_of('rule', rule, RULES)
    if bn_weight.ndim != 1 or bn_weight.shape != bn_bias.shape:
        raise ValueError(
            'overhaul_margin takes (C,) and (C,): '
            f'got bn_weight {tuple(bn_weight.shape)}, bn_bias {tuple(bn_bias.shape)}'
        )
    dtype = torch.promote_types(torch.promote_types(bn_weight.dtype, bn_bias.dtype), torch.float32)
    sigma, beta = bn_weight.detach().double().abs(), bn_bias.detach().double()
    z = beta / sigma.clamp_min(torch.finfo(torch.float64).tiny)
    # The density over the tail's probability. Both underflow from z = 38 on; their quotient is tame: erfcx has the exponential
    # taken out. Above z = 100 the difference of z and the quotient loses digits, and a few terms of its series are exact.
    quotient = math.sqrt(2.0 / math.pi) / torch.special.erfcx(z / math.sqrt(2.0))
    series = -sigma / z * (1.0 - 2.0 / z**2 + 10.0 / z**4 - 74.0 / z**6)
    margin = torch.where(z <= 100.0, beta - sigma * quotient, series)
    if rule == 'authors':
        margin = torch.where(torch.special.ndtr(-z) > 0.001, margin, -3.0 * sigma)
    return margin.to(dtype)


@MODELS.register_module()
class OverhaulLoss(nn.Module):
    """:func:`overhaul_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss; the authors' 1/1000 belongs here.

    Raises:
        ValueError: If the weight is negative or NaN.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(self, student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
        return self.loss_weight * overhaul_loss(student, teacher, margin)
