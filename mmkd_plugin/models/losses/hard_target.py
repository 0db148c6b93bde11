"""Cross-entropy with the class that the teacher finds most probable: pseudo-labels."""

from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.errors import fraction
from mmkd_plugin.models.losses.class_split import require_logits
from mmkd_plugin.models.losses.functional import at_least_float32


def hard_target_loss(
    student_logits: Tensor, teacher_logits: Tensor, min_confidence: float = 0.0
) -> Tensor:
    r"""Compute the cross-entropy with the teacher's most probable class.

    .. math:: L = -\frac{1}{N} \sum_n \mathbf{1}\bigl[\max_k p^T_{nk} \ge c\bigr]
              \log p^S_{n\hat y_n}, \quad \hat y_n = \arg\max_k p^T_{nk}

    Images below the confidence c add nothing, and N counts them: FixMatch's mean.

    Args:
        student_logits: Class scores before softmax, (N, C). Receives the gradient.
        teacher_logits: For the same images, (N, C). Receives no gradient.
        min_confidence: c, in [0, 1).

    Returns:
        A scalar in float32 or wider, whatever the autocast. It is 0 for one class.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or the confidence is out of range.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(2, 4), torch.tensor([[0.0, 9.0, 0.0, 0.0]] * 2)
        >>> hard_target_loss(student, teacher)  # log(4)
        tensor(1.3863)
        >>> teacher[0, 1] = 0.1  # of confidence 0.27
        >>> hard_target_loss(student, teacher, min_confidence=0.5)
        tensor(0.6931)

    Reference:
        Touvron et al., Training data-efficient image transformers, ICML 2021, eq. 3, without label
        smoothing; Lee, Pseudo-Label, ICML workshop 2013; Sohn et al., FixMatch, NeurIPS 2020,
        eq. 4, for the confidence.
    """
    require_logits('hard_target_loss', student_logits, teacher_logits)
    student, teacher = at_least_float32(student_logits, teacher_logits.detach())
    return hard_target_rows(student, teacher, min_confidence).mean()


def hard_target_rows(student: Tensor, target: Tensor, min_confidence: float) -> Tensor:
    """Compute the loss of each row.

    Args:
        student: Logits, (R, C).
        target: The targets' logits or log-probabilities, (R, C). Receives no gradient.
        min_confidence: The least probability of the most probable class, in [0, 1).

    Returns:
        (R,); 0 where the confidence is lower.

    Raises:
        ConfigError: If the confidence is out of range.
    """
    confidence = fraction('min_confidence', min_confidence)
    target = target.detach()
    classes = target.argmax(dim=1)
    losses = F.cross_entropy(student, classes, reduction='none')
    found = F.softmax(target, dim=1).amax(dim=1)
    # found - found is 0, or NaN: an argmax alone would hide a teacher's NaN.
    return losses * (found >= confidence) + (found - found)
