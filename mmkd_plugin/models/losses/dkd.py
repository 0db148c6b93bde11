"""DKD: separate weights for the target class and for the other classes (Zhao et al., 2022)."""

import torch
from torch import Tensor

from mmkd_plugin.errors import non_negative_number, positive_number
from mmkd_plugin.models.losses.functional import at_least_float32, wrong_shapes


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    r"""Compute the decoupled divergence of softened predictions.

    .. math:: L = \frac{\tau^2}{N} \sum_n \left(
              \alpha\,\mathrm{KL}\bigl((p^T_y, 1 - p^T_y) \,\|\, (p^S_y, 1 - p^S_y)\bigr)
              + \beta\,\mathrm{KL}(\hat p^T \,\|\, \hat p^S) \right)

    with the label y of an image, and :math:`\hat p` the softmax over the other classes alone. With
    :math:`\alpha = 1` and :math:`\beta = 1 - p^T_y` it is the divergence of soft targets.

    Args:
        student_logits: (N, C). Receives the gradient.
        teacher_logits: (N, C). Receives a gradient unless the caller detaches it.
        labels: y, class indices (N,).
        temperature: :math:`\tau`, divides the logits of both.
        alpha: :math:`\alpha`.
        beta: :math:`\beta`; the paper has 2, 6 or 8 by pair of networks, and 0.5 on ImageNet.

    Returns:
        A scalar in float32 or wider, >= 0. It is 0 if there is one class.

    Raises:
        ValueError: If the shapes differ or are not (N, C), labels are not (N,) indices, or a number
            is out of range.

    Example:
        >>> student, teacher = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 4.0]])
        >>> dkd_loss(student, teacher, torch.tensor([2]), temperature=1.0)  # others agree
        tensor(0.9213)

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, eq. 7; github.com/megvii-research/
        mdistiller, where the loss warms up over 20 epochs.
    """
    positive_number('temperature', temperature)
    non_negative_number('alpha', alpha)
    non_negative_number('beta', beta)
    student, teacher = checked_logits('dkd_loss', student_logits, teacher_logits, labels)
    if student.shape[1] < 2:
        return (student * 0.0).sum()
    own, other = (split_by_label(one / temperature, labels) for one in (student, teacher))
    target = (other.label.exp() * (other.label - own.label)).sum()
    target = target + (other.rest.exp() * (other.rest - own.rest)).sum()
    among = (other.others.exp() * (other.others - own.others)).sum()
    return temperature**2 / len(student) * (alpha * target + beta * among)


class SplitByLabel:
    """Log-probabilities of the label, of all other classes together, and among the others.

    Args:
        label: (N,).
        rest: (N,).
        others: (N, C - 1).
    """

    def __init__(self, label: Tensor, rest: Tensor, others: Tensor) -> None:
        self.label, self.rest, self.others = label, rest, others


def split_by_label(logits: Tensor, labels: Tensor) -> SplitByLabel:
    """Split the softmax of logits (N, C) at the labels (N,).

    Example:
        >>> split = split_by_label(torch.zeros(1, 4), torch.tensor([0]))
        >>> [round(value.exp()[0].max().item(), 4) for value in (split.label, split.rest)]
        [0.25, 0.75]
    """
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], True)
    others = logits[~chosen].reshape(len(logits), -1)
    own = logits[chosen]
    rest = others.logsumexp(dim=1)
    both = torch.logaddexp(own, rest)
    return SplitByLabel(own - both, rest - both, others - rest[:, None])


def checked_logits(
    function: str, student: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both logits in their common type, at least float32.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or labels are not (N,) indices.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        shapes = dict(student=student, teacher=teacher)
        raise wrong_shapes(function, 'must be (N, C) with the same N and C', **shapes)
    if labels.shape != student.shape[:1] or labels.is_floating_point():
        raise wrong_shapes(function, f'must be class indices ({len(student)},)', labels=labels)
    return at_least_float32(student, teacher)
