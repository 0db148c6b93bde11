"""Logit mimicry: regress the teacher's class scores, from before the softmax that would hide what they say."""

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses.weighted_mean import weighted_mean
from mmkd_plugin.registry import MODELS


def logit_mimic_loss(
    student_logits: Tensor, teacher_logits: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""Half the squared distance between the logits, mean over the images.

    .. math:: L = \frac{1}{2N} \sum_n \| g_n - z_n \|^2

    The paper's scale: a sum over the C classes. A mean over the N*C entries is 2/C times as much.

    Args:
        student_logits: g, class scores before softmax, (N, C). Receives the gradient.
        teacher_logits: z, of the same images, (N, C). Receives none. If logits are standardised, both are, before.
        weights: What each row counts instead of 1/N, (N,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or (N,) of the weights.

    Source: Ba & Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, eq. 1.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            'logit_mimic_loss compares (N, C) with (N, C): '
            f'got student {tuple(student_logits.shape)}, teacher {tuple(teacher_logits.shape)}'
        )
    dtype = torch.promote_types(
        torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32
    )
    difference = student_logits.to(dtype) - teacher_logits.detach().to(dtype)
    return 0.5 * weighted_mean(difference.square().sum(dim=1), weights)


@MODELS.register_module()
class LogitMimicLoss(nn.Module):
    """:func:`logit_mimic_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.

    Raises:
        ValueError: If the weight is negative or NaN.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return self.loss_weight * logit_mimic_loss(student_logits, teacher_logits)
