"""Decoupled distillation: the label's probability, and those of the other classes (Zhao, 2022)."""

from torch import Tensor

from mmkd_plugin.errors import non_negative_number, positive_number
from mmkd_plugin.models.losses.class_split import require_logits, split_by_label
from mmkd_plugin.models.losses.functional import at_least_float32


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    r"""Compute the two parts of the KL divergence with weights of their own.

    .. math:: L = \frac{\tau^2}{N} \sum_n \left( \alpha\,KL(b^T_n \,\|\, b^S_n)
              + \beta\,KL(\hat p^T_n \,\|\, \hat p^S_n) \right), \quad b = (p_y, 1 - p_y),
              \quad \hat p_k = \frac{p_k}{1 - p_y} \; (k \ne y)

    with :math:`p = softmax(z / \tau)`. The plain divergence has :math:`\alpha = 1` and
    :math:`\beta = 1 - p^T_y`, so it forgets the other classes where the teacher is confident.

    Args:
        student_logits: Class scores before softmax, (N, C). Receives the gradient.
        teacher_logits: For the same images, (N, C). Receives no gradient.
        labels: y, class indices, (N,).
        temperature: :math:`\tau`, of both sides.
        alpha: Weight of the label's part.
        beta: Weight of the part of the other classes.

    Returns:
        A scalar in float32 or wider, whatever the autocast. It is 0 for one class.

    Raises:
        ValueError: If the shapes differ or are not (N, C), the labels are no indices (N,), or a
            number is out of range.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[0.5, 0.25, 0.25]]).log()
        >>> student = torch.tensor([[0.5, 0.4, 0.1]]).log()
        >>> label = torch.tensor([0])
        >>> dkd_loss(student, teacher, label, temperature=1.0)  # 8 log(1.25)
        tensor(1.7851)
        >>> dkd_loss(student, teacher, label, temperature=1.0, beta=0.0)
        tensor(0.)

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, eq. 7.
    """
    require_logits('dkd_loss', student_logits, teacher_logits, labels)
    tau = positive_number('temperature', temperature)
    student, teacher = at_least_float32(student_logits, teacher_logits.detach())
    return tau**2 * dkd_rows(student / tau, teacher / tau, labels, alpha, beta).mean()


def dkd_rows(student: Tensor, target: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """Compute the loss of each row, without the squared temperature.

    Args:
        student: Logits over the temperature, (R, C).
        target: The targets' logits over the temperature, or their log-probabilities, (R, C).
            Receives a gradient unless the caller detaches it.
        labels: Class indices, (R,).
        alpha: Weight of the label's part.
        beta: Weight of the part of the other classes.

    Returns:
        (R,).

    Raises:
        ValueError: If a weight is out of range.
    """
    alpha, beta = non_negative_number('alpha', alpha), non_negative_number('beta', beta)
    if student.shape[1] < 2:
        return ((student + target) * 0.0).sum(dim=1)
    own, other = split_by_label(student, labels), split_by_label(target, labels)
    of_label = other.label.exp() * (other.label - own.label)
    of_label = of_label + other.rest.exp() * (other.rest - own.rest)
    of_others = other.among_others(other.others.exp() * (other.others - own.others))
    return alpha * of_label + beta * of_others
