"""Soft targets: the student's softened prediction follows a teacher's, or a mixture of several."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number, one_of, positive_number
from mmkd_plugin.models.losses.weighted_mean import weighted_mean
from mmkd_plugin.registry import MODELS

REDUCTIONS = ('batchmean', 'mean')


def soft_target_kl(
    student_logits: Tensor,
    target_probs: Tensor,
    temperature: float,
    reduction: str = 'batchmean',
    weights: Tensor | None = None,
) -> Tensor:
    r"""Divergence of the student's softened prediction from softened targets, scaled by the squared temperature.

    .. math:: L = \frac{\tau^2}{N} \sum_n KL(p_n \,\|\, softmax(z_n / \tau))
                = \frac{\tau^2}{N} \sum_n \sum_c p_{nc} (\log p_{nc} - \log softmax(z_n / \tau)_c)

    The factor keeps the size of the gradient when the temperature changes: that of the divergence shrinks with its square.

    Args:
        student_logits: z, class scores before softmax, (N, C).
        target_probs: p, probabilities softened already, (N, C); zeros are fine (0 log 0 = 0). Receives a gradient unless the
            caller detaches it: AMTML-KD learns through it how to mix teachers. The derivative at p = 0, minus infinity, is
            replaced by a large finite one.
        temperature: What the student's logits are divided by.
        reduction: 'batchmean', a mean over the N images; 'mean', over the N*C entries, as in the code of AMTML-KD's authors.
        weights: What each row counts instead of 1/N, (N,): the places of detectors do not all teach the same.

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or (N,) of the weights, the temperature is not a finite number > 0, or
            the reduction is unknown.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2; Liu et al., Adaptive Multi-Teacher
    Multi-level Knowledge Distillation, 2020 (the mean over N*C: github.com/FLHonker/AMTML-KD-code).
    """
    positive_number('temperature', temperature)
    one_of('reduction', reduction, REDUCTIONS)
    if student_logits.ndim != 2 or student_logits.shape != target_probs.shape:
        raise ValueError(
            'soft_target_kl compares (N, C) with (N, C): '
            f'got student {tuple(student_logits.shape)}, target {tuple(target_probs.shape)}'
        )
    dtype = torch.promote_types(
        torch.promote_types(student_logits.dtype, target_probs.dtype), torch.float32
    )
    target = target_probs.to(dtype)
    log_student = F.log_softmax(student_logits.to(dtype) / temperature, dim=1)
    log_target = target.clamp_min(
        torch.finfo(dtype).tiny
    ).log()  # F.kl_div would give targets of 0 the gradient NaN
    divergence = (target * (log_target - log_student)).sum(dim=1)
    scale = temperature**2 if reduction == 'batchmean' else temperature**2 / student_logits.shape[1]
    return scale * weighted_mean(divergence, weights)


@MODELS.register_module()
class SoftTargetKL(nn.Module):
    """:func:`soft_target_kl` with a weight, for configs.

    Args:
        temperature: See :func:`soft_target_kl`.
        loss_weight: Multiplies the loss.
        reduction: See :func:`soft_target_kl`.

    Raises:
        ValueError: If a number or the word is out of range.
    """

    def __init__(
        self, temperature: float, loss_weight: float = 1.0, reduction: str = 'batchmean'
    ) -> None:
        super().__init__()
        self.temperature = positive_number('temperature', temperature)
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.reduction = one_of('reduction', reduction, REDUCTIONS)

    def forward(self, student_logits: Tensor, target_probs: Tensor) -> Tensor:
        return self.loss_weight * soft_target_kl(
            student_logits, target_probs, self.temperature, self.reduction
        )
