"""DIST: match the correlations of predictions in place of their values (Huang et al., 2022)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number, positive_number
from mmkd_plugin.models.losses.functional import at_least_float32, wrong_shapes


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
    activation: str = 'softmax',
    weights: Tensor | None = None,
) -> Tensor:
    r"""Compute one minus the correlations of two networks' class probabilities.

    .. math:: L = \tau^2 \left( \beta \Bigl(1 - \frac{1}{N} \sum_n \rho(p^S_{n:}, p^T_{n:})\Bigr)
              + \gamma \Bigl(1 - \frac{1}{C} \sum_k \rho(p^S_{:k}, p^T_{:k})\Bigr) \right)

    with Pearson's correlation :math:`\rho`. The first term compares the classes of an image, the
    second the images of the batch by their probability of a class.

    Args:
        student_logits: (N, C). Receives the gradient.
        teacher_logits: (N, C). Receives a gradient unless the caller detaches it.
        temperature: :math:`\tau`, divides the logits of both.
        inter_weight: :math:`\beta`.
        intra_weight: :math:`\gamma`.
        activation: ``'softmax'``, or ``'sigmoid'`` for independent classes.
        weights: Weight of each row in place of 1/N, (N,), such as that of a detector's location.

    Returns:
        A scalar in float32 or wider, between 0 and :math:`2\tau^2(\beta + \gamma)`. It is 0 for a
        batch of one row.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or a number is out of range.

    Example:
        >>> student = torch.tensor([[0.0, 1.0, 3.0], [3.0, 0.0, 1.0]])
        >>> dist_loss(student, student + 5.0).abs() < 1e-6  # a shift of a row changes nothing
        tensor(True)
        >>> dist_loss(student, student.flip(0), inter_weight=0.0)  # images are exchanged: 1 - (-1)
        tensor(2.)

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, eq. 6-10;
        github.com/hunto/DIST_KD. Correlations are 0 where one of the two is constant.
    """
    positive_number('temperature', temperature)
    non_negative_number('inter_weight', inter_weight)
    non_negative_number('intra_weight', intra_weight)
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        shapes = dict(student=student_logits, teacher=teacher_logits)
        raise wrong_shapes('dist_loss', 'must be (N, C) with the same N and C', **shapes)
    student, teacher = at_least_float32(student_logits, teacher_logits)
    if len(student) < 2:
        return (student * 0.0).sum()
    own, target = (_probabilities(one / temperature, activation) for one in (student, teacher))
    share = torch.full_like(own[:, 0], 1 / len(own)) if weights is None else weights.to(own.dtype)
    if share.shape != own.shape[:1]:
        raise wrong_shapes('dist_loss', f'must be ({len(own)},)', weights=share)
    inter = (share * (1 - _correlation(own, target, dim=1))).sum()
    # Rows count by their weights: a weighted mean, and then products weighted by the same.
    centred = [one - (share[:, None] * one).sum(dim=0) for one in (own, target)]
    scaled = [share.sqrt()[:, None] * one for one in centred]
    intra = (1 - F.cosine_similarity(*scaled, dim=0)).mean()
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def _probabilities(logits: Tensor, activation: str) -> Tensor:
    if activation == 'sigmoid':
        return logits.sigmoid()
    if activation == 'softmax':
        return logits.softmax(dim=1)
    raise ValueError(
        f"dist_loss: activation must be 'softmax' or 'sigmoid' (found {activation!r})."
    )


def _correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    centred = [value - value.mean(dim=dim, keepdim=True) for value in (one, other)]
    return F.cosine_similarity(*centred, dim=dim)
