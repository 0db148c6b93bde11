"""Exploration loss of IE-KD: move the exploring half's factor away from the teacher's."""

from functools import partial

from torch import Tensor

from mmkd_plugin.errors import one_of
from mmkd_plugin.models.losses.cka import linear_cka
from mmkd_plugin.models.losses.factor_distance import DISTANCES as FACTOR_DISTANCES
from mmkd_plugin.models.losses.factor_distance import REDUCTIONS, factor_cosine, factor_distance
from mmkd_plugin.models.losses.functional import align
from mmkd_plugin.models.losses.loss_module import loss_module

DISTANCES = (*FACTOR_DISTANCES, 'orthogonal', 'cka')


@loss_module(
    'ExplorationLoss',
    distance=partial(one_of, allowed=DISTANCES),
    reduction=partial(one_of, allowed=REDUCTIONS),
)
def exploration_loss(
    student_factor: Tensor, teacher_factor: Tensor, distance: str = 'l1', reduction: str = 'mean'
) -> Tensor:
    r"""Compute the negative distance between two factors, or their similarity.

    .. math:: L_{exp} = - \left\| \frac{F_{exp}}{\|F_{exp}\|_2} - \frac{F_T}{\|F_T\|_2} \right\|_1

    All distances have a lower bound. Four bounds belong to opposite factors: -2/sqrt(D) for 'l1',
    -4/D for 'l2' and 'partial_l2', -2 for 'cosine'. The bound of 'orthogonal', the squared cosine,
    and of 'cka' is 0, for factors that have nothing in common. An opposite factor still carries the
    teacher's information, with another sign.

    The gradient of 'l1' also vanishes if all elements of F_exp have one size and none lies between
    the teacher's element and 0, whatever their signs. It flattens the factor and need not reverse
    it.

    Args:
        student_factor: F_exp, an encoder's output for the exploring channels, (N, C, H, W) or
            (N, C). Receives the gradient.
        teacher_factor: F_T, the paraphraser's factor of the teacher's map. Receives no gradient.
        distance: One of

            - 'l1', 'l2', 'cosine', 'partial_l2': the negative of :func:`factor_distance`. With
              'partial_l2', an element with student <= teacher <= 0 adds nothing and receives no
              gradient, because no ReLU lets the difference through. The loss falls if the student
              differs where the teacher is on, or is on where the teacher is off.
            - 'orthogonal': the mean over the images of the squared cosine between the factors.
            - 'cka': :func:`linear_cka` of the factors over the batch. It is 0 without gradient for
              one image, and always 1 without gradient for two.
        reduction: See :func:`factor_distance`. 'orthogonal' and 'cka' depend neither on the size
            nor on the reduction.

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ in more than H and W, or a word is unknown.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
        >>> exploration_loss(student, teacher)  # -(.6 + .2) / 2
        tensor(-0.4000)
        >>> exploration_loss(student, teacher, distance='orthogonal')  # .8 squared
        tensor(0.6400)

    Reference:
        Huang et al., Revisiting Knowledge Distillation: An Inheritance and Exploration Framework,
        CVPR 2021. In the authors' code the negative of the cosine distance is the mean of the
        cosine's absolute value; 'orthogonal' is its counterpart here.
    """
    one_of('distance', distance, DISTANCES)
    one_of('reduction', reduction, REDUCTIONS)
    student, teacher = align('exploration_loss', student_factor, teacher_factor)
    if distance == 'orthogonal':
        return factor_cosine(student, teacher).square().mean()
    if distance == 'cka':
        return linear_cka(student, teacher)
    return -factor_distance(student, teacher, distance, reduction)
