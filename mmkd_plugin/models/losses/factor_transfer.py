"""Factor transfer: the student's factor follows the teacher's, whole, with nothing left to explore."""

from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses.factor_distance import factor_distance
from mmkd_plugin.registry import MODELS


def factor_transfer_loss(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    r"""Mean absolute difference between factors that are normalised image by image.

    .. math:: L_{FT} = \left\| \frac{F_S}{\|F_S\|_2} - \frac{F_T}{\|F_T\|_2} \right\|_p

    with p = 1, and a mean over all elements for the sum, as in the authors' code: a weight of 500 goes with it.

    Args:
        student_factor: F_S, the translator's output for the student's map, (N, C, H, W) or (N, C). Receives the gradient.
        teacher_factor: F_T, the paraphraser's for the teacher's, with the same N and C; H and W may differ. Receives none.

    Returns:
        A scalar in float32 or wider, whatever the autocast; at least 0.

    Raises:
        ValueError: If the shapes differ in more than H and W.

    Source: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018.
    """
    return factor_distance(student_factor, teacher_factor)


@MODELS.register_module()
class FactorTransferLoss(nn.Module):
    """:func:`factor_transfer_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.

    Raises:
        ValueError: If the weight is negative or NaN.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(self, student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
        return self.loss_weight * factor_transfer_loss(student_factor, teacher_factor)
