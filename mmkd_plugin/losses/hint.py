"""Hints: a feature map of the student, usually behind a regressor, follows a feature map of the teacher."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.checks import weight
from mmkd_plugin.registry import MODELS


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared error between two feature maps, the larger first average-pooled to the size of the smaller.

    .. math:: L = \frac{1}{NCHW} \| u - v \|^2

    FitNets has half the sum over C, H and W, AMTML-KD the whole of it; the mean makes a weight hold for any network.

    Args:
        student: v, the student's map behind its regressor, (N, C, H, W), or its vectors, (N, C). Receives the gradient.
        teacher: u, of the same images, with the same N and C; its H and W may differ. Receives none.

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ in more than H and W; nothing is ever broadcast.

    Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3; Liu et al., Adaptive Multi-Teacher
    Multi-level Knowledge Distillation, 2020.
    """
    maps = student.ndim == teacher.ndim == 4
    same = student.shape[:2] == teacher.shape[:2] if maps else student.ndim == 2 and student.shape == teacher.shape
    if not same:
        raise ValueError(
            'hint_loss compares (N, C, H, W) with (N, C, H, W), or (N, C) with (N, C), of the same N and C: '
            f'got student {tuple(student.shape)}, teacher {tuple(teacher.shape)}'
        )
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    if maps and student.shape != teacher.shape:
        size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
        student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
    return F.mse_loss(student, teacher)


@MODELS.register_module()
class HintLoss(nn.Module):
    """:func:`hint_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.

    Raises:
        ValueError: If the weight is negative or NaN.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = weight('loss_weight', loss_weight)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.loss_weight * hint_loss(student, teacher)
