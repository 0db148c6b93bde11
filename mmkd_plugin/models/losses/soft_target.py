"""Soft targets: divergence of the student's softened prediction from softened targets.

A valid call runs no code of another file of the project, so this file can be read alone.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses.functional import wrong_shapes


def soft_target_loss(
    student_logits: Tensor,
    target_probs: Tensor,
    temperature: float,
    activation: str,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the divergence that belongs to the activation of the networks' heads.

    Args:
        student_logits: Class scores before the activation, (N, C).
        target_probs: Probabilities that are softened already, (N, C).
        temperature: The divisor of the student's logits.
        activation: ``'softmax'`` for :func:`soft_target_kl`, ``'sigmoid'`` for
            :func:`binary_soft_target_kl`.
        weights: The factor of each row instead of 1/N, (N,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the activation is unknown, or as the two functions.

    Example:
        >>> student, target = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
        >>> soft_target_loss(student, target, 1.0, 'softmax')  # log 2
        tensor(0.6931)
        >>> soft_target_loss(student, target, 1.0, 'sigmoid')  # 2 log 2
        tensor(1.3863)
    """
    if activation == 'softmax':
        return soft_target_kl(student_logits, target_probs, temperature, weights)
    if activation == 'sigmoid':
        return binary_soft_target_kl(student_logits, target_probs, temperature, weights)
    raise ValueError(
        f"soft_target_loss: activation must be 'softmax' or 'sigmoid' (found {activation!r})."
    )


def soft_target_kl(
    student_logits: Tensor, target_probs: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    r"""Compute the KL divergence of the student's softened prediction from softened targets.

    .. math:: L = \frac{\tau^2}{N} \sum_n KL(p_n \,\|\, softmax(z_n / \tau))
                = \frac{\tau^2}{N} \sum_n \sum_c p_{nc} (\log p_{nc} - \log softmax(z_n / \tau)_c)

    The gradient of the divergence shrinks with the squared temperature. The factor
    :math:`\tau^2` keeps its size when the temperature changes.

    Args:
        student_logits: z, class scores before softmax, (N, C).
        target_probs: p, probabilities that are softened already, (N, C). Zeros are allowed, with
            0 log 0 = 0. Receives a gradient unless the caller detaches it: AMTML-KD learns the
            weights of its teachers through it. The derivative at p = 0, minus infinity, is replaced
            by a large finite one.
        temperature: The divisor of the student's logits.
        weights: The factor of each row instead of 1/N, (N,), such as that of a detector's location.

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ or are not (N, C), the weights are not (N,), or the
            temperature is not a finite number > 0.

    Example:
        >>> student, target = torch.tensor([[0.0, 2.0 * math.log(3.0)]]), torch.tensor([[0.5, 0.5]])
        >>> soft_target_kl(student, target, temperature=2.0)  # 2 log(4/3)
        tensor(0.5754)

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2; Liu et al.,
        Adaptive Multi-Teacher Multi-level Knowledge Distillation, 2020. The code of the latter's
        authors (github.com/FLHonker/AMTML-KD-code) takes the mean over the N*C entries, which is
        1/C times this value.
    """
    student, target = _softened('soft_target_kl', student_logits, target_probs, temperature)
    log_student = F.log_softmax(student, dim=1)
    # F.kl_div would give targets of 0 the gradient NaN.
    log_target = target.clamp_min(torch.finfo(target.dtype).tiny).log()
    divergence = (target * (log_target - log_student)).sum(dim=1)
    return temperature**2 * _mean('soft_target_kl', divergence, weights)


def binary_soft_target_kl(
    student_logits: Tensor, target_probs: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    r"""Compute the binary divergences from softened targets, summed over independent classes.

    .. math:: L = \frac{\tau^2}{N} \sum_n \sum_c \left( p_{nc} \log\frac{p_{nc}}{q_{nc}}
                + (1 - p_{nc}) \log\frac{1 - p_{nc}}{1 - q_{nc}} \right), \quad q = \sigma(z / \tau)

    This is the counterpart of :func:`soft_target_kl` for heads with a sigmoid, such as those that a
    focal loss trains. Their class probabilities do not add up to 1, and a location where all are
    small is background. With one class, the loss is the softmax divergence of the logits z and 0.

    Args:
        student_logits: z, class scores before the sigmoid, (N, C).
        target_probs: p, probabilities that are softened already, (N, C); 0 and 1 are allowed.
            Receives a gradient unless the caller detaches it. The derivative at 0 and 1, infinite,
            is replaced by a large finite one.
        temperature: The divisor of the student's logits.
        weights: The factor of each row instead of 1/N, (N,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ or are not (N, C), the weights are not (N,), or the
            temperature is not a finite number > 0.

    Example:
        >>> student, target = torch.tensor([[2.0 * math.log(3.0), 0.0]]), torch.tensor([[0.5, 0.5]])
        >>> binary_soft_target_kl(student, target, temperature=2.0)  # 2 log(4/3)
        tensor(0.5754)

    Reference:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2, for a
        distribution of two outcomes per class.
    """
    student, target = _softened('binary_soft_target_kl', student_logits, target_probs, temperature)
    cross_entropy = F.binary_cross_entropy_with_logits(student, target, reduction='none')
    # The entropy is a constant for a target without gradient, and then needs no graph.
    with torch.set_grad_enabled(torch.is_grad_enabled() and target.requires_grad):
        entropy = _x_log_x(target) + _x_log_x(1.0 - target)
    divergence = (cross_entropy + entropy).sum(dim=1)
    return temperature**2 * _mean('binary_soft_target_kl', divergence, weights)


def _softened(
    function: str, student_logits: Tensor, target_probs: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Check the arguments and return z / tau and p in their common dtype, at least float32."""
    if not (isinstance(temperature, float) and 0.0 < temperature < math.inf):
        positive_number('temperature', temperature)  # refuses all but integers
    if student_logits.ndim != 2 or student_logits.shape != target_probs.shape:
        shapes = dict(student=student_logits, target=target_probs)
        raise wrong_shapes(function, 'must be (N, C) with the same N and C', **shapes)
    dtype = torch.promote_types(student_logits.dtype, target_probs.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return student_logits.to(dtype) / temperature, target_probs.to(dtype)


def _mean(function: str, rows: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return rows.sum() / len(rows)
    if weights.shape != rows.shape:
        raise wrong_shapes(function, f'must be ({len(rows)},)', weights=weights)
    return (weights.detach().to(rows.dtype) * rows).sum()


def _x_log_x(probability: Tensor) -> Tensor:
    return probability * probability.clamp_min(torch.finfo(probability.dtype).tiny).log()
