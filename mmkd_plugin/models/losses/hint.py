"""Hints: a feature map of the student, usually behind a regressor, follows a feature map of the teacher."""

from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses.comparable import comparable
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
    student, teacher = comparable('hint_loss', student, teacher)
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
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.loss_weight * hint_loss(student, teacher)
