"""Logit mimic loss: regress the teacher's class scores before softmax (Ba & Caruana, 2014)."""

from torch import Tensor

from mmkd_plugin.models.losses.functional import at_least_float32, weighted_mean, wrong_shapes
from mmkd_plugin.models.losses.loss_module import loss_module


@loss_module('LogitMimicLoss')
def logit_mimic_loss(
    student_logits: Tensor, teacher_logits: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""Compute half the squared distance between the logits, mean over the images.

    .. math:: L = \frac{1}{2N} \sum_n \| g_n - z_n \|^2

    The scale is the paper's, with a sum over the C classes. A mean over the N*C entries would be
    2/C times as much. Softmax hides a shift of all logits of an image; this loss does not.

    Args:
        student_logits: g, class scores before softmax, (N, C). Receives the gradient.
        teacher_logits: z, for the same images, (N, C). Receives no gradient. If logits are
            standardised, both must be, before the call.
        weights: The factor of each row instead of 1/N, (N,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ or are not (N, C), or the weights are not (N,).

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        >>> logit_mimic_loss(student, teacher)  # (1 + 4) / 2
        tensor(2.5000)

    Reference:
        Ba & Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, eq. 1.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        shapes = dict(student=student_logits, teacher=teacher_logits)
        raise wrong_shapes('logit_mimic_loss', 'must be (N, C) with the same N and C', **shapes)
    student, teacher = at_least_float32(student_logits, teacher_logits.detach())
    squares = (student - teacher).square().sum(dim=1)
    return 0.5 * weighted_mean('logit_mimic_loss', squares, weights)
