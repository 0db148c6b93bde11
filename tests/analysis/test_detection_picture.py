"""Panels by MMDet's visualizer: confident boxes at their locations, in the colours of classes."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers import detection  # noqa: F401  # imports MMDet without its warnings
from mmengine.structures import InstanceData

from mmkd_plugin.analysis.detection_picture import (
    GAP,
    MARGIN,
    SIDE,
    TITLE,
    Panels,
    Picture,
    resized,
    sheet,
)

META = dict(classes=('red', 'green'), palette=[(255, 0, 0), (0, 255, 0)])


def instances(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], scores: Sequence[float] | None = None
) -> InstanceData:
    found = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.long)
    )
    if scores is not None:
        found.scores = torch.tensor(scores)
    return found


def panels_of(row: Picture, count: int) -> list[Picture]:
    """Return the panels without title, gap and margin."""
    width = (row.shape[1] - GAP * (count - 1)) // count
    return [
        row[TITLE:-MARGIN, start : start + width - MARGIN]
        for start in range(0, row.shape[1], width + GAP)
    ]


def edges(panel: Picture, label: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a class's colour, in pixels of a 48 x 48 image."""
    colour = np.array(META['palette'][label])
    rows, columns = np.nonzero((np.abs(panel.astype(int) - colour) < 60).all(axis=-1))
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / (SIDE / 48)
    left, top, right, bottom = (round(value) for value in found.tolist())
    return left, top, right, bottom


def test_row_of_perfect_predictions_equals_the_ground_truth() -> None:
    image = np.zeros((48, 48, 3), dtype=np.uint8)
    boxes, labels = [[4.0, 6.0, 20.0, 30.0], [16.0, 8.0, 44.0, 40.0]], [0, 1]
    row = Panels(META, 0.3).row(
        image, dict(truth=instances(boxes, labels), net=instances(boxes, labels, [0.8, 0.9]))
    )
    truth, net = panels_of(row, 2)
    for panel in (truth, net):
        assert edges(panel, 0) == (4, 6, 20, 30)
        assert edges(panel, 1) == (16, 8, 44, 40)
    below = int(14 * SIDE / 48)  # below the labels, which have scores in one panel
    np.testing.assert_array_equal(truth[below:], net[below:])
    assert (truth != net).any()


def test_row_neither_draws_nor_counts_boxes_below_the_threshold() -> None:
    image = np.full((48, 48, 3), 40, dtype=np.uint8)
    boxes = [[4.0, 6.0, 20.0, 30.0], [16.0, 8.0, 44.0, 40.0]]
    few = dict(net=instances(boxes[:1], [0], [0.9]))
    both = dict(net=instances(boxes, [0, 1], [0.9, 0.3]))
    np.testing.assert_array_equal(
        Panels(META, 0.3).row(image, few), Panels(META, 0.3).row(image, both)
    )
    assert (Panels(META, 0.2).row(image, few) != Panels(META, 0.2).row(image, both)).any()


def test_row_draws_the_most_confident_label_on_top() -> None:
    image, box = np.zeros((48, 48, 3), dtype=np.uint8), [4.0, 6.0, 20.0, 30.0]
    one = dict(net=instances([box, box], [0, 1], [0.9, 0.6]))
    other = dict(net=instances([box, box], [1, 0], [0.6, 0.9]))
    rows = [Panels(META, 0.3).row(image, found) for found in (one, other)]
    np.testing.assert_array_equal(*rows)
    assert edges(panels_of(rows[0], 1)[0], 0) == (4, 6, 20, 30)


@pytest.mark.parametrize('scores', [None, []])
def test_row_of_an_image_without_boxes_shows_its_pixels(scores: list[float] | None) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 60, 3), dtype=np.uint8)
    row = Panels(META, 0.3).row(image, dict(net=instances([], [], scores)))
    factor = SIDE // 48
    np.testing.assert_array_equal(
        row[TITLE + factor // 2 : -MARGIN : factor, factor // 2 : -MARGIN : factor], image
    )


def test_row_without_palette_or_class_names_draws_boxes() -> None:
    image, found = (
        np.zeros((48, 48, 3), dtype=np.uint8),
        dict(truth=instances([[4.0, 6.0, 20.0, 30.0]], [1])),
    )
    [panel] = panels_of(Panels({}, 0.3).row(image, found), 1)
    assert panel.any()
    [panel] = panels_of(Panels(dict(META, palette=META['palette'][:1]), 0.3).row(image, found), 1)
    assert panel.any()


@pytest.mark.parametrize(
    ('size', 'shown', 'factor'),
    [
        ((96, 96), (480, 480), 5.0),
        ((64, 100), (512, 800), 8.0),
        ((480, 640), (480, 640), 1.0),
        ((700, 500), (700, 500), 1.0),
        ((1920, 2880), (480, 720), 0.25),
    ],
)
def test_resized_enlarges_small_images_by_whole_numbers_and_shrinks_large_ones(
    size: tuple[int, int], shown: tuple[int, int], factor: float
) -> None:
    picture, found = resized(np.zeros((*size, 3), dtype=np.uint8))
    assert (picture.shape, found) == ((*shown, 3), factor)


def test_sheet_pads_rows_to_one_width() -> None:
    rows = [
        np.full((height, width, 3), value, dtype=np.uint8)
        for height, width, value in ((4, 6, 1), (5, 3, 2))
    ]
    made = sheet(rows)
    assert made.shape == (9, 6, 3)
    assert (made[:4] == 1).all() and (made[4:, :3] == 2).all() and (made[4:, 3:] == 255).all()
