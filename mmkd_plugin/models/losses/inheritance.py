"""Inheritance: the factor of the student's one half comes near the teacher's."""

from torch import Tensor

from mmkd_plugin.models.losses.factor_distance import FactorDistance, factor_distance
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
class InheritanceLoss(FactorDistance):
    """:func:`inheritance_loss` with a weight, for configs: :class:`FactorDistance` by the paper's name."""
