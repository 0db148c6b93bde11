"""Distance between normalised factors: factor transfer (Kim et al., 2018) and inheritance in IE-KD.

Inheritance is the half of IE-KD (Huang et al., 2021) that lowers this distance.
"""

from functools import partial

from torch import Tensor

from mmkd_plugin.errors import one_of
from mmkd_plugin.models.losses.functional import (
    align,
    inverse_norm,
    partial_squares_,
    unit_difference,
)
from mmkd_plugin.models.losses.loss_module import loss_module

DISTANCES = ('l1', 'l2', 'cosine', 'partial_l2')
REDUCTIONS = ('mean', 'size_invariant')
REFERENCE_SIZE = 2048  # elements of a factor in the paper's CIFAR networks: 32 channels of 8x8


@loss_module(
    'FactorDistance',
    distance=partial(one_of, allowed=DISTANCES),
    reduction=partial(one_of, allowed=REDUCTIONS),
)
def factor_distance(
    student_factor: Tensor, teacher_factor: Tensor, distance: str = 'l1', reduction: str = 'mean'
) -> Tensor:
    r"""Compute the distance between factors that are normalised image by image.

    .. math:: L = \frac{1}{ND} \sum_n \ell(\hat{s}_n - \hat{t}_n), \quad
              \hat{s}_n = s_n / \|s_n\|_2, \quad \hat{t}_n = t_n / \|t_n\|_2

    with D = CHW. The larger map is first average-pooled to the size of the smaller. By
    ``distance``, :math:`\ell` is

    - 'l1': the sum of absolute values;
    - 'l2': the sum of squares;
    - 'partial_l2': the sum of squares, but 0 for elements with :math:`\hat{s} \le \hat{t} \le 0`.

    The distance 'cosine' is :math:`\frac{1}{N} \sum_n (1 - \hat{s}_n \cdot \hat{t}_n)`.

    A mean over elements of unit vectors shrinks as they grow: 'l1' is at most :math:`2/\sqrt{D}`,
    'l2' is at most :math:`4/D`. A factor of zero norm stays zero and receives no gradient.

    In factor transfer, s is the translator's output :math:`F_S` for the student's map. In IE-KD, s
    is an encoder's output :math:`F_{inh}` for the inheriting channels. In both, t is the
    paraphraser's factor :math:`F_T` of the teacher's map:

    .. math:: L_{FT} = \left\| \frac{F_S}{\|F_S\|_2} - \frac{F_T}{\|F_T\|_2} \right\|_p, \quad
              L_{inh} = \left\| \frac{F_{inh}}{\|F_{inh}\|_2} - \frac{F_T}{\|F_T\|_2} \right\|_1

    with p = 1 and a mean over all elements for the sum, as in the code of both papers' authors.

    Args:
        student_factor: s, (N, C, H, W) or (N, C). Receives the gradient.
        teacher_factor: t, for the same images, with the same N and C; H and W may differ. Receives
            no gradient.
        distance: 'l1', 'l2', 'cosine' or 'partial_l2'.
        reduction: 'mean' over all elements. The weights 500 of factor transfer's code and 50 of
            the IE-KD paper belong to it. 'size_invariant' gives, for factors of any D, the value at
            D = 2048: :math:`\sqrt{D/2048}` times the mean for 'l1', :math:`D/2048` times the mean
            for 'l2' and 'partial_l2'. Use it for maps much larger than the paper's. The reductions
            are equal for 'cosine'.

    Returns:
        A scalar in float32 or wider, whatever the autocast; at least 0.

    Raises:
        ValueError: If the shapes differ in more than H and W, or a word is unknown.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
        >>> factor_distance(student, teacher)  # (.6, .8) and (0, 1): (.6 + .2) / 2
        tensor(0.4000)
        >>> factor_distance(student, teacher, distance='cosine')
        tensor(0.2000)

    Reference:
        Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS
        2018, eq. 3; Huang et al., Revisiting Knowledge Distillation: An Inheritance and Exploration
        Framework, CVPR 2021. The code of the latter's authors
        (github.com/aliyun/Revisiting-Knowledge-Distillation-an-Inheritance-and-Exploration-Framework)
        takes the root of the mean for 'l2'. This function does not, because the root has no
        gradient at equal factors.
    """
    one_of('distance', distance, DISTANCES)
    one_of('reduction', reduction, REDUCTIONS)
    student, teacher = align('factor_distance', student_factor, teacher_factor)
    if distance == 'cosine':
        return 1.0 - _cosine(student, teacher).mean()
    difference = unit_difference(student, teacher)
    growth = difference[0].numel() / REFERENCE_SIZE if reduction == 'size_invariant' else 1.0
    if distance == 'l1':
        return growth**0.5 * difference.abs().mean()
    squares = difference.square() if distance == 'l2' else partial_squares_(difference, teacher)
    return growth * squares.mean()


def factor_cosine(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    r"""Compute the cosine between the factors of each image.

    .. math:: \hat{s}_n \cdot \hat{t}_n

    with the normalised factors of :func:`factor_distance`.

    Args:
        student_factor: s, (N, C, H, W) or (N, C). Receives the gradient.
        teacher_factor: t, with the same N and C; H and W may differ. Receives no gradient.

    Returns:
        (N,), in float32 or wider; 0 for an image with a factor of zero norm.

    Raises:
        ValueError: If the shapes differ in more than H and W.

    Example:
        >>> import torch
        >>> factor_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([0.8000])
    """
    return _cosine(*align('factor_cosine', student_factor, teacher_factor))


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    products = (student * teacher).flatten(1).sum(dim=1)
    return products * inverse_norm(student).flatten() * inverse_norm(teacher).flatten()
