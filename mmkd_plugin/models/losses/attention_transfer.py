"""Attention transfer loss: match the maps of mean energy (Zagoruyko & Komodakis, 2017)."""

from torch import Tensor

from mmkd_plugin.models.losses.functional import (
    at_least_float32,
    match_spatial_size,
    unit_difference,
    wrong_shapes,
)
from mmkd_plugin.models.losses.loss_module import loss_module


@loss_module('AttentionTransferLoss')
def attention_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Compute the mean squared difference between the normalised attention maps of two networks.

    .. math:: L = \frac{1}{NHW} \sum_n
              \left\| \frac{Q^S_n}{\|Q^S_n\|_2} - \frac{Q^T_n}{\|Q^T_n\|_2} \right\|_2^2, \quad
              Q_n = \frac{1}{C} \sum_c f_{nc}^2

    with Q flattened over H and W. The larger attention map is first average-pooled to the size of
    the smaller: energies, unlike features, do not cancel. An attention map of zero norm stays zero
    and receives no gradient.

    Args:
        student: f of the student, (N, C_s, H, W). Receives the gradient.
        teacher: f of the teacher, for the same images, (N, C_t, H', W'). Receives no gradient.

    Returns:
        A scalar in float32 or wider, whatever the autocast. It is at most 2/HW, because attention
        is never negative.

    Raises:
        ValueError: If the inputs are not 4-D or differ in N.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[[3.0**0.5, 2.0]]]])  # energies (3, 4), normalised (.6, .8)
        >>> teacher = torch.tensor([[[[0.0, 3.0]], [[0.0, 1.0]]]])  # energies (0, 5): (0, 1)
        >>> attention_transfer_loss(student, teacher)  # (.36 + .04) / 2
        tensor(0.2000)

    Reference:
        Zagoruyko & Komodakis, Paying More Attention to Attention: Improving the Performance of
        Convolutional Neural Networks via Attention Transfer, ICLR 2017;
        github.com/szagoruyko/attention-transfer. The paper has the norm without the square. The
        square, the mean over NHW and a weight of 1000 after it are the authors' code.
    """
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        must = 'must be (N, C, H, W) with the same N'
        raise wrong_shapes('attention_transfer_loss', must, student=student, teacher=teacher)
    student, teacher = at_least_float32(student, teacher.detach())
    return attention_difference(attention_map(student), attention_map(teacher))


def attention_map(feature: Tensor) -> Tensor:
    """Return the mean over channels of the squared map (N, C, H, W), as (N, 1, H, W)."""
    return at_least_float32(feature).square().mean(dim=1, keepdim=True)


def attention_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare two attention maps (N, 1, H, W); see :func:`attention_transfer_loss`."""
    return unit_difference(*match_spatial_size(student, teacher)).square().mean()
