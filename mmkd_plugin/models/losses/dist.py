"""DIST: correlate class probabilities, of each image and of each class (Huang et al., 2022)."""

import torch
from torch import Tensor

from mmkd_plugin.errors import non_negative_number, one_of, positive_number
from mmkd_plugin.models.losses.class_split import require_logits
from mmkd_plugin.models.losses.functional import EPS, at_least_float32
from mmkd_plugin.models.losses.loss_module import loss_module


def _activation(key: str, value: str) -> str:
    return one_of(key, value, ('softmax', 'sigmoid'))


@loss_module(
    'DISTLoss',
    temperature=positive_number,
    inter_weight=non_negative_number,
    intra_weight=non_negative_number,
    activation=_activation,
)
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    activation: str = 'softmax',
) -> Tensor:
    r"""Compute one minus the Pearson correlations of the rows and of the columns.

    .. math:: L = \tau^2 \left( \beta \Bigl(1 - \frac{1}{N} \sum_n \rho(p^S_{n:}, p^T_{n:})\Bigr)
              + \gamma \Bigl(1 - \frac{1}{C} \sum_k \rho(p^S_{:k}, p^T_{:k})\Bigr) \right)

    with :math:`p = softmax(z / \tau)`, or :math:`p = \sigma(z / \tau)` for a sigmoid, and Pearson's
    :math:`\rho`. A constant row or column, up to rounding, has correlation 0 and receives no
    gradient.

    Args:
        student_logits: Class scores before the activation, (N, C). Receives the gradient.
        teacher_logits: For the same images, (N, C). Receives no gradient.
        temperature: :math:`\tau`, of both sides.
        inter_weight: :math:`\beta`, of the relation between the classes of an image.
        intra_weight: :math:`\gamma`, of the relation between the images of a class.
        activation: ``'softmax'``, or ``'sigmoid'`` for heads whose classes are independent.

    Returns:
        A scalar in float32 or wider, whatever the autocast. It is 0 for a batch of one image, in
        which no class has a relation between images.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or an argument is out of range.

    Example:
        >>> student = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).log()
        >>> teacher = torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]]).log()
        >>> dist_loss(student, teacher, intra_weight=0.0)  # the rows have 0.7559 and 0.7559
        tensor(0.2441)
        >>> dist_loss(student, teacher, inter_weight=0.0)  # the columns have 1, 0 and 1
        tensor(0.3333)
        >>> student = torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.2, 0.9]]).logit()
        >>> dist_loss(student, -student, activation='sigmoid')  # p and 1 - p: all have -1
        tensor(4.)

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, eq. 7-10. The
        authors' code adds 1e-8 to the product of the norms, which lowers small correlations. Their
        RetinaNet has the sigmoid (github.com/hunto/MasKD, ``use_sigmoid=True``).
    """
    require_logits('dist_loss', student_logits, teacher_logits)
    tau = positive_number('temperature', temperature)
    student, teacher = at_least_float32(student_logits, teacher_logits.detach())
    return tau**2 * dist_correlation(
        student / tau,
        teacher / tau,
        inter_weight,
        intra_weight,
        activation=_activation('activation', activation),
    )


def dist_correlation(
    student: Tensor,
    target: Tensor,
    inter_weight: float,
    intra_weight: float,
    weights: Tensor | None = None,
    activation: str = 'softmax',
) -> Tensor:
    """Compute the loss without the squared temperature.

    Args:
        student: Logits over the temperature, (R, C).
        target: The targets' logits over the temperature, or other numbers of which the activation
            makes the targets' probabilities, (R, C). Receives a gradient unless the caller detaches
            it.
        inter_weight: Weight of the rows.
        intra_weight: Weight of the columns.
        weights: Weight of each row, such as that of a detector's location, (R,). They count as
            frequencies in the correlations of the columns. None for 1/R each.
        activation: ``'softmax'`` or ``'sigmoid'``.

    Returns:
        A scalar; 0 for fewer than two rows.

    Raises:
        ValueError: If a weight is out of range.
    """
    inter = non_negative_number('inter_weight', inter_weight)
    intra = non_negative_number('intra_weight', intra_weight)
    if len(student) < 2:
        return ((student + target) * 0.0).sum()
    if activation == 'sigmoid':
        own, other = student.sigmoid(), target.sigmoid()
    else:
        own, other = student.softmax(dim=1), target.softmax(dim=1)
    if weights is None:
        share = own.new_full((len(own),), 1 / len(own))
    else:
        share = weights.detach().to(own.dtype)
        share = share / share.sum()
    of_rows = (_unit(own, 1) * _unit(other, 1)).sum(dim=1)
    of_columns = (_unit(own, 0, share) * _unit(other, 0, share)).sum(dim=0)
    return inter * (1 - (share * of_rows).sum()) + intra * (1 - of_columns.mean())


def _unit(x: Tensor, dim: int, share: Tensor | None = None) -> Tensor:
    """Centre the lines along a dimension and divide them by their norms; constant ones become 0."""
    if share is None:
        centred = x - x.mean(dim=dim, keepdim=True)
        size = x
    else:  # frequencies
        root = share.sqrt()[:, None]
        centred = root * (x - (share[:, None] * x).sum(dim=dim, keepdim=True))
        size = root * x
    norm = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    noise = (
        2
        * torch.finfo(x.dtype).eps
        * torch.linalg.vector_norm(size.detach(), dim=dim, keepdim=True)
    )
    return centred / norm.masked_fill(norm <= noise.clamp_min(EPS), torch.inf)
