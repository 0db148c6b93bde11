"""Hint loss: regress the teacher's feature map (Romero et al., 2015)."""

from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses.functional import align, weighted_mean
from mmkd_plugin.models.losses.loss_module import loss_module


@loss_module('HintLoss')
def hint_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Compute the mean squared error between two feature maps.

    .. math:: L = \frac{1}{NCHW} \| u - v \|^2

    The larger map is first average-pooled to the size of the smaller.

    FitNets has half the sum over C, H and W, and AMTML-KD has the whole sum. With the mean, one
    weight holds for networks of any size.

    Args:
        student: v, the student's map behind its regressor, (N, C, H, W), or its vectors, (N, C).
            Receives the gradient.
        teacher: u, the teacher's for the same images, with the same N and C; H and W may differ.
            Receives no gradient.
        weights: Factor of each image in place of 1/N, (N,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ in more than H and W. Nothing is broadcast.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
        >>> hint_loss(student, teacher)  # (1 + 4) / 2
        tensor(2.5000)

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3; Liu et al., Adaptive
        Multi-Teacher Multi-level Knowledge Distillation, 2020.
    """
    student, teacher = align('hint_loss', student, teacher)
    if weights is None:
        return F.mse_loss(student, teacher)
    rows = (student - teacher).square().flatten(1).mean(dim=1)
    return weighted_mean('hint_loss', rows, weights)
