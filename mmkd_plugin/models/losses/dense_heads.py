"""Losses of dense detectors: quality of sigmoid scores (BCKD), box sides (LD), decoded boxes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses.functional import at_least_float32, weighted_mean, wrong_shapes


def binary_quality_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    beta: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Compute binary cross-entropies, each weighted by the difference of the probabilities.

    .. math:: L = \frac{1}{R} \sum_r \sum_c |p_{rc} - q_{rc}|^\beta \,
                  \left(-p_{rc} \log q_{rc} - (1 - p_{rc}) \log(1 - q_{rc})\right)

    :math:`p = \sigma(t)` is the teacher's probability and :math:`q = \sigma(s)` the student's.
    The gradient passes through the difference too, as in the quality focal loss.

    Args:
        student_logits: s, scores before the sigmoid, (R, C). Receives the gradient.
        teacher_logits: t, for the same locations, (R, C). Receives no gradient.
        beta: Power of the difference, above 0.
        weights: The factor of each row instead of 1/R, (R,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ConfigError: If ``beta`` is no finite number > 0.
        ValueError: If the shapes differ or are not (R, C), or the weights are not (R,).

    Example:
        >>> import math
        >>> student, teacher = torch.tensor([[0.0]]), torch.tensor([[math.log(3.0)]])
        >>> binary_quality_loss(student, teacher)  # 1/4 * log(2)
        tensor(0.1733)

    Reference:
        Yang et al., Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object
        Detection, ICCV 2023 (arXiv 2308.14286).
    """
    beta = positive_number('beta', beta)
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        shapes = dict(student=student_logits, teacher=teacher_logits)
        raise wrong_shapes('binary_quality_loss', 'must be (R, C) with the same R and C', **shapes)
    student, teacher = at_least_float32(student_logits, teacher_logits.detach())
    target = teacher.sigmoid()
    difference = (student.sigmoid() - target).abs()
    if beta != 1.0:  # a power of 1 would only cost copies
        # A difference of 0 has no gradient; the power of one below 1 would give it NaN.
        difference = difference.clamp_min(torch.finfo(target.dtype).tiny) ** beta
    entropy = F.binary_cross_entropy_with_logits(student, target, reduction='none')
    return weighted_mean('binary_quality_loss', (difference * entropy).sum(1), weights)


def localization_loss(
    student_bins: Tensor,
    teacher_bins: Tensor,
    temperature: float = 10.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Compute the divergence of distributions over the distance of a box side.

    .. math:: L = \frac{\tau^2}{R} \sum_r \mathrm{KL}\left(\mathrm{softmax}(t_r / \tau)
                  \,\|\, \mathrm{softmax}(s_r / \tau)\right)

    The KL sums over bins. MMDet's ``KnowledgeDistillationKLDivLoss`` takes their mean: 1/bins
    times this value.

    Args:
        student_bins: s, logits of the bins, one row a side, (R, bins). Receives the gradient.
        teacher_bins: t, of the same shape. Receives no gradient.
        temperature: Divides both logits.
        weights: The factor of each row instead of 1/R, (R,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ConfigError: If the temperature is no finite number > 0.
        ValueError: If the shapes differ or are not (R, bins), or the weights are not (R,).

    Example:
        >>> import math
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
        >>> localization_loss(student, teacher, temperature=1.0)
        tensor(0.1308)

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022.
    """
    tau = positive_number('temperature', temperature)
    if student_bins.ndim != 2 or student_bins.shape != teacher_bins.shape:
        shapes = dict(student=student_bins, teacher=teacher_bins)
        raise wrong_shapes('localization_loss', 'must be (R, bins) with the same sizes', **shapes)
    student, teacher = at_least_float32(student_bins, teacher_bins.detach())
    own, target = F.log_softmax(student / tau, dim=1), F.log_softmax(teacher / tau, dim=1)
    divergence = (target.exp() * (target - own)).sum(dim=1)
    return tau**2 * weighted_mean('localization_loss', divergence, weights)


def giou_loss(
    student_boxes: Tensor, teacher_boxes: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""Compute 1 - GIoU of pairs of boxes, mean over the rows.

    .. math:: \mathrm{GIoU} = \frac{|A \cap B|}{|A \cup B|} - \frac{|H| - |A \cup B|}{|H|}

    H is the smallest box around both. A shift or scale of an axis changes nothing, so boxes may
    be in units of their anchor.

    Args:
        student_boxes: Corners (x1, y1, x2, y2), (R, 4). Receives the gradient.
        teacher_boxes: The same shape. Receives no gradient.
        weights: The factor of each row instead of 1/R, (R,).

    Returns:
        A scalar in float32 or wider, whatever the autocast.

    Raises:
        ValueError: If the shapes differ or are not (R, 4), or the weights are not (R,).

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.0, 2.0, 1.0]])
        >>> giou_loss(a, a), giou_loss(a, b)
        (tensor(0.), tensor(1.))

    Reference:
        Rezatofighi et al., Generalized Intersection over Union, CVPR 2019.
    """
    if student_boxes.shape != teacher_boxes.shape or student_boxes.shape[1:] != (4,):
        shapes = dict(student=student_boxes, teacher=teacher_boxes)
        raise wrong_shapes('giou_loss', 'must be (R, 4) with the same R', **shapes)
    own, target = at_least_float32(student_boxes, teacher_boxes.detach())
    tiny = torch.finfo(own.dtype).tiny
    low, high = torch.maximum(own[:, :2], target[:, :2]), torch.minimum(own[:, 2:], target[:, 2:])
    overlap = (high - low).clamp_min(0).prod(dim=1)
    union = _area(own) + _area(target) - overlap
    low, high = torch.minimum(own[:, :2], target[:, :2]), torch.maximum(own[:, 2:], target[:, 2:])
    hull = (high - low).prod(dim=1)
    # Two boxes without area are equal if their hull has none.
    ratio = overlap / union.clamp_min(tiny) + union / hull.clamp_min(tiny)
    giou_plus_one = torch.where(hull <= tiny, 2.0, ratio)
    return weighted_mean('giou_loss', 2.0 - giou_plus_one, weights)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(dim=1)
