"""Exploration: the factor of the student's other half keeps away from the teacher's."""

from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number, one_of
from mmkd_plugin.models.losses.cka import linear_cka
from mmkd_plugin.models.losses.comparable import comparable
from mmkd_plugin.models.losses.factor_distance import DISTANCES as FACTOR_DISTANCES
from mmkd_plugin.models.losses.factor_distance import REDUCTIONS, factor_cosine, factor_distance
from mmkd_plugin.registry import MODELS

DISTANCES = (*FACTOR_DISTANCES, 'orthogonal', 'cka')


def exploration_loss(
    student_factor: Tensor, teacher_factor: Tensor, distance: str = 'l1', reduction: str = 'mean'
) -> Tensor:
    r"""The negative distance of the exploring half's factor from the teacher's, or their similarity.

    .. math:: L_{exp} = - \left\| \frac{F_{exp}}{\|F_{exp}\|_2} - \frac{F_T}{\|F_T\|_2} \right\|_1

    All are bounded below: 'l1' by -2/sqrt(D), 'l2' and 'partial_l2' by -4/D, 'cosine' by -2: the factors are opposite then.
    'orthogonal', the squared cosine, and 'cka' are least, 0, where the factors have nothing in common: an opposite factor
    carries the teacher's knowledge with another sign. 'l1' is also at rest where all elements of F_exp are of one size and
    none lies between the teacher's and 0, whatever their signs: it flattens the factor rather than turns it around.

    Args:
        student_factor: F_exp, what an encoder makes of the exploring channels, (N, C, H, W) or (N, C). Receives the gradient.
        teacher_factor: F_T, what the paraphraser makes of the teacher's map. Receives none.
        distance: 'l1', 'l2', 'cosine' or 'partial_l2' of :func:`factor_distance`, whose negative it is. With 'partial_l2' an
            element where student <= teacher <= 0 is neither rewarded nor moved, as a difference that no ReLU lets through:
            the student lowers the loss by being unlike where the teacher is on, and by being on where the teacher is off.
            'orthogonal': mean over the images of the squared cosine between the factors. 'cka': :func:`linear_cka` of the
            factors over the batch; 0, without gradient, for one image, and always 1, without gradient, for two.
        reduction: See :func:`factor_distance`. 'orthogonal' and 'cka' do not depend on the size, nor on this.

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ in more than H and W, or a word is unknown.

    Source: Huang et al., Revisiting Knowledge Distillation: An Inheritance and Exploration Framework, CVPR 2021. In the
    authors' code the negative of the cosine distance is the mean of the cosine's absolute value; see 'orthogonal' for that.
    """
    one_of('distance', distance, DISTANCES)
    one_of('reduction', reduction, REDUCTIONS)
    if distance == 'orthogonal':
        return factor_cosine(student_factor, teacher_factor).square().mean()
    if distance == 'cka':
        return linear_cka(*comparable('exploration_loss', student_factor, teacher_factor))
    return -factor_distance(student_factor, teacher_factor, distance, reduction)


@MODELS.register_module()
class ExplorationLoss(nn.Module):
    """:func:`exploration_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.
        distance: See :func:`exploration_loss`.
        reduction: See :func:`factor_distance`.

    Raises:
        ValueError: If the weight or a word is out of range.
    """

    def __init__(
        self, loss_weight: float = 1.0, distance: str = 'l1', reduction: str = 'mean'
    ) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.distance = one_of('distance', distance, DISTANCES)
        self.reduction = one_of('reduction', reduction, REDUCTIONS)

    def forward(self, student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
        return self.loss_weight * exploration_loss(
            student_factor, teacher_factor, self.distance, self.reduction
        )
