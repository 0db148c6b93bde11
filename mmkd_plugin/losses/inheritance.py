"""Inheritance: the factor of the student's one half comes near the teacher's."""

from torch import Tensor, nn

from mmkd_plugin.checks import choice, weight
from mmkd_plugin.losses.factor_distance import DISTANCES, REDUCTIONS, factor_distance
from mmkd_plugin.registry import MODELS


def inheritance_loss(
    student_factor: Tensor, teacher_factor: Tensor, distance: str = 'l1', reduction: str = 'mean'
) -> Tensor:
    r"""Distance of the inheriting half's factor from the teacher's, each over its norm.

    .. math:: L_{inh} = \left\| \frac{F_{inh}}{\|F_{inh}\|_2} - \frac{F_T}{\|F_T\|_2} \right\|_1

    with a mean over all elements for the sum, as in the authors' code: the paper's weight of 50 goes with it.

    Args:
        student_factor: F_inh, what an encoder makes of the inheriting channels, (N, C, H, W) or (N, C). Receives the gradient.
        teacher_factor: F_T, what the paraphraser makes of the teacher's map. Receives none.
        distance: See :func:`factor_distance`.
        reduction: See :func:`factor_distance`; 'size_invariant' for maps much larger than the paper's.

    Returns:
        A scalar in float32 or wider, whatever the autocast; at least 0.

    Raises:
        ValueError: As :func:`factor_distance`.

    Source: Huang et al., Revisiting Knowledge Distillation: An Inheritance and Exploration Framework, CVPR 2021.
    """
    return factor_distance(student_factor, teacher_factor, distance, reduction)


@MODELS.register_module()
class InheritanceLoss(nn.Module):
    """:func:`inheritance_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.
        distance: See :func:`factor_distance`.
        reduction: See :func:`factor_distance`.

    Raises:
        ValueError: If the weight or a word is out of range.
    """

    def __init__(self, loss_weight: float = 1.0, distance: str = 'l1', reduction: str = 'mean') -> None:
        super().__init__()
        self.loss_weight = weight('loss_weight', loss_weight)
        self.distance = choice('distance', distance, DISTANCES)
        self.reduction = choice('reduction', reduction, REDUCTIONS)

    def forward(self, student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
        return self.loss_weight * inheritance_loss(student_factor, teacher_factor, self.distance, self.reduction)
