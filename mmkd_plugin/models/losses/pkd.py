"""PKD loss: match maps up to a scale and a shift of each channel (Cao et al., 2022)."""

import torch
from torch import Tensor

from mmkd_plugin.models.losses.functional import align, weighted_mean, wrong_shapes
from mmkd_plugin.models.losses.loss_module import loss_module


@loss_module('PKDLoss')
def pkd_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Compute one minus Pearson's correlation between two maps, averaged over the channels.

    .. math:: L = \frac{1}{2 N C H W} \sum (\hat s - \hat t)^2
              = \frac{1}{C} \sum_c \bigl(1 - \rho(s_c, t_c)\bigr), \quad
              \hat x_c = \frac{x_c - \mu_c}{\sigma_c}

    with mean and standard deviation of each channel over N, H and W. A constant channel is
    standardised to 0, without gradient. The loss does not change if a channel of either map is
    multiplied by a positive number or shifted.

    Args:
        student: s, (N, C, H, W). Receives the gradient.
        teacher: t, with the same N and C. Receives no gradient. The larger map is average-pooled
            to the size of the smaller.
        weights: Factor of each image in place of 1/N, (N,). Means and deviations stay those of the
            whole batch.

    Returns:
        A scalar in float32 or wider, between 0 and 2.

    Raises:
        ValueError: If the inputs are not 4-D or differ in N or C.

    Example:
        >>> student = torch.tensor([[[[1.0, 2.0, 3.0]]]])
        >>> pkd_loss(student, 10 * student + 5).round(decimals=4)
        tensor(0.)
        >>> pkd_loss(student, -student).round(decimals=4)
        tensor(2.)

    Reference:
        Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson Correlation
        Coefficient, NeurIPS 2022, eq. 4. The authors' code enlarges the smaller map and has the
        standard deviation of N H W - 1; this one has N H W, for which the equation is exact.
    """
    if student.ndim != 4 or teacher.ndim != 4:
        must = 'must both be (N, C, H, W), with the same N and C'
        raise wrong_shapes('pkd_loss', must, student=student, teacher=teacher)
    student, teacher = align('pkd_loss', student, teacher)
    squares = (_standardised(student) - _standardised(teacher)).square()
    if weights is None:
        return squares.mean() / 2
    return weighted_mean('pkd_loss', squares.flatten(1).mean(dim=1), weights) / 2


def _standardised(x: Tensor) -> Tensor:
    limits = torch.finfo(x.dtype)
    standardised, mean, inverse = torch.native_batch_norm(
        x, None, None, None, None, True, 0.0, limits.tiny
    )
    # The mean of a constant channel is rounded: what is left is no deviation.
    rounding = (16 * limits.eps * mean.detach().abs()).clamp_min(limits.tiny**0.5)
    constant = inverse.detach() * rounding >= 1
    return standardised.masked_fill(constant[:, None, None], 0.0)
