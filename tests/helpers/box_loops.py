"""Overlaps of boxes and the threshold of ATSS, in plain Python."""

import math
import statistics
from collections.abc import Sequence

Box = Sequence[float]


def iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes (left, top, right, bottom)."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(across, 0) * max(down, 0)
    return overlap / (area(a) + area(b) - overlap)


def giou(a: Box, b: Box) -> float:
    """Return the generalised IoU of two boxes."""
    hull = area([*map(min, a[:2], b[:2]), *map(max, a[2:], b[2:])])
    found = iou(a, b)
    union = (area(a) + area(b)) / (1 + found)
    return found - (hull - union) / hull


def diou(a: Box, b: Box) -> float:
    """Return the IoU less the squared distance of the centres over that of the hull's corners."""
    across = max(a[2], b[2]) - min(a[0], b[0])
    down = max(a[3], b[3]) - min(a[1], b[1])
    return iou(a, b) - math.dist(middle(a), middle(b)) ** 2 / (across**2 + down**2)


def area(a: Box) -> float:
    """Return the area of a box."""
    return (a[2] - a[0]) * (a[3] - a[1])


def middle(a: Box) -> tuple[float, float]:
    """Return the centre of a box."""
    return (a[0] + a[2]) / 2, (a[1] + a[3]) / 2


def atss_threshold(anchors: Sequence[Box], counts: Sequence[int], box: Box, topk: int = 9) -> float:
    """Return the IoU from which on ATSS makes an anchor positive for an object.

    Args:
        anchors: Boxes of all levels in turn.
        counts: Number of anchors of each level.
        box: The object.
        topk: Candidates of a level.
    """
    found, start = [], 0
    for count in counts:
        level = anchors[start : start + count]
        nearest = sorted(level, key=lambda a: math.dist(middle(a), middle(box)))[:topk]
        found += [iou(a, box) for a in nearest]
        start += count
    return statistics.mean(found) + statistics.stdev(found)
