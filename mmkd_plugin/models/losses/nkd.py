"""Normalised distillation: cross-entropy of the label and of the others (Yang et al., 2023)."""

from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number, positive_number
from mmkd_plugin.models.losses.class_split import require_logits, split_by_label
from mmkd_plugin.models.losses.functional import at_least_float32


def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    gamma: float = 1.5,
) -> Tensor:
    r"""Compute the soft cross-entropy of the label and that among the other classes.

    .. math:: L = -\frac{1}{N} \sum_n \left( p^T_{ny} \log p^S_{ny} + \gamma\,\tau^2
              \sum_{k \ne y} \hat p^T_{nk} \log \hat p^S_{nk} \right), \quad
              \hat p_k = \frac{p_k(\tau)}{1 - p_y(\tau)}

    The label's part has temperature 1. The loss is a cross-entropy: its smallest value is not 0.

    Args:
        student_logits: Class scores before softmax, (N, C). Receives the gradient.
        teacher_logits: For the same images, (N, C). Receives no gradient.
        labels: y, class indices, (N,).
        temperature: :math:`\tau`, of the other classes, of both sides.
        gamma: Weight of the part of the other classes.

    Returns:
        A scalar in float32 or wider, whatever the autocast. It is 0 for one class.

    Raises:
        ValueError: If the shapes differ or are not (N, C), the labels are no indices (N,), or a
            number is out of range.

    Example:
        >>> import torch
        >>> logits, label = torch.zeros(1, 3), torch.tensor([0])
        >>> nkd_loss(logits, logits, label, gamma=0.0)  # log(3) / 3
        tensor(0.3662)
        >>> nkd_loss(logits, logits, label, gamma=1.0)  # and log(2)
        tensor(1.0594)

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
        with Normalized Loss and Customized Soft Labels, ICCV 2023.
    """
    require_logits('nkd_loss', student_logits, teacher_logits, labels)
    tau = positive_number('temperature', temperature)
    student, teacher = at_least_float32(student_logits, teacher_logits.detach())
    return nkd_rows(student, teacher, teacher / tau, labels, tau, gamma).mean()


def nkd_rows(
    student: Tensor,
    target: Tensor,
    softened_target: Tensor,
    labels: Tensor,
    temperature: float,
    gamma: float,
) -> Tensor:
    """Compute the loss of each row.

    Args:
        student: Logits, (R, C).
        target: The targets' logits or log-probabilities at temperature 1, (R, C). Receives a
            gradient unless the caller detaches it.
        softened_target: The same at the temperature of the other classes.
        labels: Class indices, (R,).
        temperature: Temperature of the other classes.
        gamma: Weight of the part of the other classes.

    Returns:
        (R,).

    Raises:
        ValueError: If the weight is out of range.
    """
    gamma = non_negative_number('gamma', gamma)
    if student.shape[1] < 2:
        return ((student + target + softened_target) * 0.0).sum(dim=1)
    own = split_by_label(student / temperature, labels)
    other = split_by_label(softened_target, labels)
    of_others = other.among_others(other.others.exp() * own.others)
    log_student, log_target = own.label, other.label
    if temperature != 1.0:
        log_student = _log_probability(student, labels)
        log_target = _log_probability(target, labels)
    return -(log_target.exp() * log_student + gamma * temperature**2 * of_others)


def _log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    return F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
