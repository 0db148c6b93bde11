"""Attention transfer: the student looks where the teacher looks, whatever their channels."""

from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses.comparable import same_size, widened
from mmkd_plugin.models.losses.unit import unit_difference
from mmkd_plugin.registry import MODELS


def attention_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference between the normalised attention maps of two networks.

    .. math:: L = \frac{1}{NHW} \sum_n \left\| \frac{Q^S_n}{\|Q^S_n\|_2} - \frac{Q^T_n}{\|Q^T_n\|_2} \right\|_2^2, \quad
              Q_n = \frac{1}{C} \sum_c f_{nc}^2

    where Q is flattened over H and W. The paper has the norm without the square; the square, the mean over NHW and then a
    weight of 1000 are the authors' code. Of two sizes the larger attention map is average-pooled to the smaller: energies,
    unlike features, do not cancel. A dead map, of zero norm, attends to nothing: it stays zero and gets no gradient.

    Args:
        student: f of the student, (N, C_s, H, W). Receives the gradient.
        teacher: f of the teacher, for the same images, (N, C_t, H', W'). Receives none.

    Returns:
        A scalar in float32 or wider, whatever the autocast; at most 2/HW, for attention is never negative.

    Raises:
        ValueError: If the inputs are no maps or differ in N.

    Source: Zagoruyko & Komodakis, Paying More Attention to Attention: Improving the Performance of Convolutional Neural
    Networks via Attention Transfer, ICLR 2017; github.com/szagoruyko/attention-transfer.
    """
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError(
            'attention_transfer_loss compares (N, C, H, W) with (N, C, H, W), of the same N: '
            f'got student {tuple(student.shape)}, teacher {tuple(teacher.shape)}'
        )
    student, teacher = widened(student, teacher)
    attention = same_size(
        student.square().mean(dim=1, keepdim=True), teacher.square().mean(dim=1, keepdim=True)
    )
    return unit_difference(*attention).square().mean()


@MODELS.register_module()
class AttentionTransferLoss(nn.Module):
    """:func:`attention_transfer_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.

    Raises:
        ValueError: If the weight is negative or NaN.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.loss_weight * attention_transfer_loss(student, teacher)
