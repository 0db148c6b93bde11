"""How far a student's factor is from a teacher's in direction, whatever their scales: what IE-KD lowers and raises."""

from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number, one_of
from mmkd_plugin.models.losses.comparable import comparable
from mmkd_plugin.models.losses.partial_l2 import partial_squares_
from mmkd_plugin.models.losses.unit import inverse_norm, unit_difference
from mmkd_plugin.registry import MODELS

DISTANCES = ('l1', 'l2', 'cosine', 'partial_l2')
REDUCTIONS = ('mean', 'size_invariant')
REFERENCE_SIZE = 2048  # elements of a factor in the paper's CIFAR networks: 32 channels of 8x8


def factor_distance(
    student_factor: Tensor, teacher_factor: Tensor, distance: str = 'l1', reduction: str = 'mean'
) -> Tensor:
    r"""Distance between factors that are normalised image by image, the larger map first average-pooled to the smaller.

    .. math:: L = \frac{1}{ND} \sum_n \ell(\hat{s}_n - \hat{t}_n), \quad
              \hat{s}_n = s_n / \|s_n\|_2, \quad \hat{t}_n = t_n / \|t_n\|_2

    with D = CHW and :math:`\ell` by ``distance``: 'l1' absolute values, 'l2' squares, 'partial_l2' squares, but 0 where
    :math:`\hat{s} \le \hat{t} \le 0`; 'cosine' is :math:`\frac{1}{N} \sum_n (1 - \hat{s}_n \cdot \hat{t}_n)`.

    A mean over elements of unit vectors shrinks as they grow: 'l1' is at most :math:`2/\sqrt{D}`, 'l2' :math:`4/D`.
    A factor of zero norm has no direction: it stays zero and gets no gradient.

    Args:
        student_factor: s, (N, C, H, W) or (N, C). Receives the gradient.
        teacher_factor: t, of the same images, with the same N and C; its H and W may differ. Receives none.
        distance: 'l1', 'l2', 'cosine' or 'partial_l2'.
        reduction: 'mean', over all elements, for which the paper's weight of 50 holds; 'size_invariant', the value at
            D = 2048 of factors of any D: :math:`\sqrt{D/2048}` times as much for 'l1', :math:`D/2048` times for 'l2' and
            'partial_l2'. The two are one for 'cosine'.

    Returns:
        A scalar in float32 or wider, whatever the autocast; at least 0.

    Raises:
        ValueError: If the shapes differ in more than H and W, or a word is unknown.

    Source: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018; Huang et al.,
    Revisiting Knowledge Distillation: An Inheritance and Exploration Framework, CVPR 2021. The code of the latter's authors
    (github.com/aliyun/Revisiting-Knowledge-Distillation-an-Inheritance-and-Exploration-Framework) takes the root of the
    mean for 'l2'; this function does not, for the root has no gradient at equal factors.
    """
    one_of('distance', distance, DISTANCES)
    one_of('reduction', reduction, REDUCTIONS)
    student, teacher = comparable('factor_distance', student_factor, teacher_factor)
    if distance == 'cosine':
        return 1.0 - _cosine(student, teacher).mean()
    difference = unit_difference(student, teacher)
    growth = difference[0].numel() / REFERENCE_SIZE if reduction == 'size_invariant' else 1.0
    if distance == 'l1':
        return growth**0.5 * difference.abs().mean()
    squares = difference.square() if distance == 'l2' else partial_squares_(difference, teacher)
    return growth * squares.mean()


def factor_cosine(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    """Cosine between the factors of each image, (N,), in float32 or wider; 0 where one has zero norm.

    Arguments and errors as in :func:`factor_distance`.
    """
    return _cosine(*comparable('factor_cosine', student_factor, teacher_factor))


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    products = (student * teacher).flatten(1).sum(dim=1)
    return products * inverse_norm(student).flatten() * inverse_norm(teacher).flatten()


@MODELS.register_module()
class FactorDistance(nn.Module):
    """:func:`factor_distance` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.
        distance: See :func:`factor_distance`.
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
        return self.loss_weight * factor_distance(
            student_factor, teacher_factor, self.distance, self.reduction
        )
