"""Soft targets of heads with a sigmoid: every class is a question of its own, to be answered as the teacher does."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number, positive_number
from mmkd_plugin.models.losses.weighted_mean import weighted_mean
from mmkd_plugin.registry import MODELS


def binary_soft_target_kl(
    student_logits: Tensor, target_probs: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    r"""Binary divergence of the student's softened prediction from softened targets, summed over classes.

    .. math:: L = \frac{\tau^2}{N} \sum_n \sum_c \left( p_{nc} \log\frac{p_{nc}}{q_{nc}}
                + (1 - p_{nc}) \log\frac{1 - p_{nc}}{1 - q_{nc}} \right), \quad q = \sigma(z / \tau)

    The counterpart of :func:`~mmkd_plugin.models.losses.soft_target_kl` for heads that a focal loss trains: their classes do not add up to 1,
    and background is where none is likely. With one class it is the softmax divergence of logits z and 0.

    Args:
        student_logits: z, class scores before the sigmoid, (N, C).
        target_probs: p, probabilities softened already, (N, C); 0 and 1 are fine. Receives a gradient unless the caller detaches it;
            the derivative at 0 and 1, infinite, is replaced by a large finite one.
        temperature: What the student's logits are divided by.
        weights: What each row counts instead of 1/N, (N,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or (N,) of the weights, or the temperature is not a finite number > 0.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2, for a distribution of two outcomes a class.
    """
    positive_number('temperature', temperature)
    if student_logits.ndim != 2 or student_logits.shape != target_probs.shape:
        raise ValueError(
            'binary_soft_target_kl compares (N, C) with (N, C): '
            f'got student {tuple(student_logits.shape)}, target {tuple(target_probs.shape)}'
        )
    dtype = torch.promote_types(
        torch.promote_types(student_logits.dtype, target_probs.dtype), torch.float32
    )
    softened, target = student_logits.to(dtype) / temperature, target_probs.to(dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(softened, target, reduction='none')
    with torch.set_grad_enabled(
        torch.is_grad_enabled() and target.requires_grad
    ):  # else a constant: spare its graph
        entropy = _x_log_x(target) + _x_log_x(1.0 - target)
    return temperature**2 * weighted_mean((cross_entropy + entropy).sum(dim=1), weights)


def _x_log_x(probability: Tensor) -> Tensor:
    return probability * probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


@MODELS.register_module()
class BinarySoftTargetKL(nn.Module):
    """:func:`binary_soft_target_kl` with a weight, for configs.

    Args:
        temperature: See :func:`binary_soft_target_kl`.
        loss_weight: Multiplies the loss.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, temperature: float, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive_number('temperature', temperature)
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(
        self, student_logits: Tensor, target_probs: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        return self.loss_weight * binary_soft_target_kl(
            student_logits, target_probs, self.temperature, weights
        )
