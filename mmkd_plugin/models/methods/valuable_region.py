"""LD's valuable localization region: anchors that nearly show an object."""

from collections.abc import Sequence

import torch
from torch import Tensor


def valuable_region(
    anchors: Tensor, counts: Sequence[int], boxes: Tensor, gamma: float = 0.25, topk: int = 9
) -> Tensor:
    r"""Return the IoU of each anchor of the region with an object, and 0 outside of it.

    .. math:: V = \{(a, g) : \gamma\,\alpha_g \le \mathrm{DIoU}(a, g) < \alpha_g\}

    :math:`\alpha_g` is the threshold of :func:`atss_thresholds`. An anchor that nearly shows
    several objects has the largest of its IoUs. The region is no complement of the positives: an
    anchor that is positive for one object may lie in the region of another one, and the DIoU of a
    positive may be below the threshold of its IoU.

    Args:
        anchors: Corners (left, top, right, bottom) of the anchors of an image, (A, 4).
        counts: Number of anchors of each level; they run over A.
        boxes: Corners of its objects, (M, 4).
        gamma: :math:`\gamma`, in [0, 1).
        topk: Number of candidates that ATSS takes from a level.

    Returns:
        (A,); all 0 if there is no object.

    Example:
        The first anchor is positive, the second nearly shows the object:

        >>> anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0], [8.0, 0, 12, 4]])
        >>> valuable_region(anchors, [3], torch.tensor([[0.0, 0.0, 6.0, 4.0]]), gamma=0.2)
        tensor([0.0000, 0.2500, 0.0000])

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022, section 3.3
        and algorithm 1.
    """
    if not len(boxes) or not len(anchors):
        return anchors.new_zeros(len(anchors))
    boxes = boxes.to(anchors)
    ious, penalties, distances = _pairs(anchors, boxes)
    thresholds = atss_thresholds(ious, distances, counts, topk)
    dious = ious - penalties
    near = (dious >= gamma * thresholds) & (dious < thresholds)
    return torch.where(near, ious, 0.0).amax(dim=1)


def atss_thresholds(
    ious: Tensor, distances: Tensor, counts: Sequence[int], topk: int = 9
) -> Tensor:
    """Return the IoU from which on ATSS makes an anchor positive, for each object, (M,).

    It is the mean plus the standard deviation of the IoUs of candidates: of each level the
    ``topk`` anchors whose centres are nearest to that of the object.

    Args:
        ious: IoU of each anchor with each object, (A, M).
        distances: Distance between their centres, (A, M).
        counts: Number of anchors of each level; they run over A.
        topk: Number of candidates of a level.

    Reference:
        Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive
        Training Sample Selection, CVPR 2020, algorithm 1.
    """
    candidates = []
    for of_level, near in zip(ious.split(counts), distances.split(counts), strict=True):
        nearest = near.topk(min(topk, len(near)), dim=0, largest=False).indices
        candidates.append(of_level.gather(0, nearest))
    found = torch.cat(candidates)
    # A single candidate has no deviation.
    return found.mean(dim=0) + (found.std(dim=0) if len(found) > 1 else 0.0)


def _pairs(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the IoU, what DIoU subtracts of it, and the distance of the centres, (A, M) each."""
    one, other = anchors[:, None], boxes[None]
    low, high = (
        torch.maximum(one[..., :2], other[..., :2]),
        torch.minimum(one[..., 2:], other[..., 2:]),
    )
    overlap = (high - low).clamp_min(0).prod(dim=2)
    areas = [(each[..., 2:] - each[..., :2]).prod(dim=2) for each in (one, other)]
    tiny = torch.finfo(overlap.dtype).tiny
    ious = overlap / (areas[0] + areas[1] - overlap).clamp_min(tiny)
    low, high = (
        torch.minimum(one[..., :2], other[..., :2]),
        torch.maximum(one[..., 2:], other[..., 2:]),
    )
    shift = (one[..., :2] + one[..., 2:]) / 2 - (other[..., :2] + other[..., 2:]) / 2
    squares = shift.square().sum(dim=2)
    return ious, squares / (high - low).square().sum(dim=2).clamp_min(tiny), squares.sqrt()
