"""LD's valuable region, against loops in float64 and MMDet's own assigner."""

import pytest
import torch
from helpers.box_loops import atss_threshold, diou, iou
from mmdet.models.task_modules.assigners import ATSSAssigner
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd_plugin.models.methods.valuable_region import (
    _pairs,
    atss_thresholds,
    valuable_region,
)

COUNTS = [48, 12, 3]


def scene() -> tuple[Tensor, Tensor]:
    """Return anchors of three levels, and objects of several sizes at no special place."""
    anchors = []
    for rows, columns, stride in ((6, 8, 8), (3, 4, 16), (1, 3, 32)):
        for row in range(rows):
            for column in range(columns):
                x, y, half = column * stride, row * stride, 2.5 * stride
                anchors.append([x - half, y - half, x + half, y + half])
    boxes = [[3.1, 5.7, 30.3, 41.9], [20.2, 9.4, 51.7, 30.6], [40.9, 31.3, 47.8, 39.6]]
    return torch.tensor(anchors, dtype=torch.float64), torch.tensor(boxes, dtype=torch.float64)


@pytest.mark.parametrize(('gamma', 'topk'), [(0.25, 9), (0.6, 9), (0.25, 4), (0.0, 9)])
def test_region_is_that_of_loops(gamma: float, topk: int) -> None:
    anchors, boxes = scene()
    rows, objects = anchors.tolist(), boxes.tolist()
    limits = [atss_threshold(rows, COUNTS, box, topk) for box in objects]
    expected = [
        max(
            [0.0]
            + [
                iou(a, b)
                for b, limit in zip(objects, limits, strict=True)
                if gamma * limit <= diou(a, b) < limit
            ]
        )
        for a in rows
    ]
    found = valuable_region(anchors, COUNTS, boxes, gamma, topk)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    inside = int((found > 0).sum())
    assert 3 <= inside < len(rows)  # neither nothing nor everything


def test_region_shrinks_as_gamma_grows_and_is_empty_without_objects() -> None:
    anchors, boxes = scene()
    sizes = [int((valuable_region(anchors, COUNTS, boxes, g) > 0).sum()) for g in (0.0, 0.25, 0.9)]
    assert sizes[0] > sizes[1] > sizes[2]
    assert not valuable_region(anchors, COUNTS, boxes[:0]).any()
    assert valuable_region(anchors[:0], [0, 0, 0], boxes).shape == (0,)
    alone = valuable_region(anchors[:1], [1], boxes)  # one candidate has no deviation
    assert alone.isfinite().all()


def test_thresholds_give_the_positives_of_the_host_s_assigner() -> None:
    anchors, boxes = scene()
    ious, _, distances = _pairs(anchors, boxes)
    limits = atss_thresholds(ious, distances, COUNTS)
    candidate = torch.zeros_like(ious, dtype=torch.bool)
    start = 0
    for count in COUNTS:
        nearest = distances[start : start + count].topk(min(9, count), dim=0, largest=False).indices
        candidate.scatter_(0, nearest + start, True)
        start += count
    centre = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
    within = ((centre - boxes[:, :2]).amin(2) > 0.01) & ((boxes[:, 2:] - centre).amin(2) > 0.01)
    host = ATSSAssigner(topk=9).assign(
        InstanceData(priors=anchors),
        COUNTS,
        InstanceData(bboxes=boxes, labels=torch.arange(len(boxes))),
    )
    expected = host.gt_inds > 0
    for scale, same in ((1.0, True), (0.7, False)):  # a lower threshold has other positives
        positive = (candidate & within & (ious >= scale * limits)).any(dim=1)
        assert torch.equal(positive, expected) is same
    assert expected.sum() >= 2
