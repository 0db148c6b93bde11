"""NKD: cross-entropy with the teacher's target class, and with its other classes alone."""

from torch import Tensor

from mmkd_plugin.errors import non_negative_number, positive_number
from mmkd_plugin.models.losses.dkd import checked_logits, split_by_label


def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    gamma: float = 1.5,
) -> Tensor:
    r"""Compute the normalised distillation loss.

    .. math:: L = \frac{1}{N} \sum_n \Bigl( -p^T_y \log p^S_y
              - \gamma \tau^2 \sum_{k \ne y} \hat p^T_k \log \hat p^S_k \Bigr)

    with the label y of an image, and :math:`\hat p` the softmax at :math:`\tau` over the other
    classes alone. The probabilities of the label are those at temperature 1. The loss is a
    cross-entropy: it is not 0 where the two networks agree.

    Args:
        student_logits: (N, C). Receives the gradient.
        teacher_logits: (N, C). Receives a gradient unless the caller detaches it.
        labels: y, class indices (N,).
        temperature: :math:`\tau`.
        gamma: :math:`\gamma`.

    Returns:
        A scalar in float32 or wider, >= 0. With one class it is 0.

    Raises:
        ValueError: If the shapes differ or are not (N, C), labels are not (N,) indices, or a number
            is out of range.

    Example:
        >>> import torch
        >>> student = torch.zeros(1, 3)  # 1/3 log 3 + 1.5 log 2
        >>> nkd_loss(student, student, torch.tensor([2]))
        tensor(1.4059)

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, ICCV 2023, eq. 7;
        github.com/yzd-v/cls_KD.
    """
    positive_number('temperature', temperature)
    non_negative_number('gamma', gamma)
    student, teacher = checked_logits('nkd_loss', student_logits, teacher_logits, labels)
    if student.shape[1] < 2:
        return (student * 0.0).sum()
    own, other = (split_by_label(one, labels) for one in (student, teacher))
    target = -(other.label.exp() * own.label).sum()
    if temperature != 1:
        own, other = (split_by_label(one / temperature, labels) for one in (student, teacher))
    among = -(other.others.exp() * own.others).sum()
    return (target + gamma * temperature**2 * among) / len(student)
