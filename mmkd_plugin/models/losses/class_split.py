"""Class probabilities, split into that of the label and those of all other classes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses.functional import wrong_shapes


class ClassSplit(NamedTuple):
    """Logarithms of the parts of a class distribution.

    Args:
        label: Log-probability of the label, (R,).
        rest: Log-probability of all other classes together, (R,).
        others: Log-probabilities among the other classes, which add up to 1, (R, K). The entry of
            the label is 0: minus infinity would make products of 0 NaN.
        is_label: Whether a class is the label, (R, K).
    """

    label: Tensor
    rest: Tensor
    others: Tensor
    is_label: Tensor

    def among_others(self, values: Tensor) -> Tensor:
        """Sum values (R, K) over the classes that are not the label, (R,)."""
        return values.masked_fill(self.is_label, 0.0).sum(dim=1)


def split_by_label(logits: Tensor, labels: Tensor) -> ClassSplit:
    """Split the distribution of each row by its label, without loss of digits at either end.

    Args:
        logits: (R, K) with K of at least 2.
        labels: Class indices, (R,).

    Example:
        >>> probabilities = torch.tensor([[0.5, 0.3, 0.2]])
        >>> split = split_by_label(probabilities.log(), torch.tensor([0]))
        >>> split.label.exp(), split.rest.exp(), split.others.exp()
        (tensor([0.5000]), tensor([0.5000]), tensor([[1.0000, 0.6000, 0.4000]]))
    """
    log_probs = F.log_softmax(logits, dim=1)
    is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    rest = torch.logsumexp(log_probs.masked_fill(is_label, -torch.inf), dim=1)
    others = F.log_softmax(logits.masked_fill(is_label, -torch.inf), dim=1)
    others = others.masked_fill(is_label, 0.0)
    label = log_probs.gather(1, labels[:, None]).squeeze(1)
    return ClassSplit(label, rest, others, is_label)


def require_logits(
    function: str, student: Tensor, teacher: Tensor, labels: Tensor | None = None
) -> None:
    """Refuse tensors that are not logits of equal shape, and labels that are not class indices.

    Args:
        function: The name of the loss, which begins the error.
        student: (R, K).
        teacher: (R, K).
        labels: Integers (R,), if the loss has labels.

    Raises:
        ValueError: If a shape or the type of the labels is another.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        must = 'must be (N, C) with the same N and C'
        raise wrong_shapes(function, must, student=student, teacher=teacher)
    if labels is None:
        return
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if labels.shape != student.shape[:1] or not whole:
        raise wrong_shapes(function, f'must be class indices ({len(student)},)', labels=labels)
