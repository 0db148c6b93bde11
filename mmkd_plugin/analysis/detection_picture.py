"""Rows of panels, drawn by MMDet's visualizer: one image, its true boxes, and each detector's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

#: Shorter side of a drawn image in pixels, about: small images are enlarged by a whole number.
SIDE = 480
#: Dots an inch: MMDet's labels of 6 points, in boxes below 30,000 pixels, stay legible.
DPI = 150
#: Height of a panel's title; room for labels right of and below the image; gap between panels.
TITLE, MARGIN, GAP = 44, 40, 8
WHITE = 255


class Panels:
    """Draw panels for the images of one data set.

    Args:
        meta: Meta information of the data set: names of its ``classes``, and their ``palette``.
        score_thr: Boxes with a score of at most this are not drawn.
    """

    def __init__(self, meta: Mapping[str, Any], score_thr: float) -> None:
        from mmdet.visualization import DetLocalVisualizer  # here, because MMDet is optional

        self.score_thr = score_thr
        self._visualizer = DetLocalVisualizer(line_width=2, text_color=(255, 255, 255))
        self._visualizer.fig_save.set_dpi(DPI)
        self._visualizer.dpi = DPI
        classes, palette = meta.get('classes'), meta.get('palette')
        if palette is not None and (classes is None or len(palette) < len(classes)):
            palette = None  # the visualizer's own
        self._visualizer.dataset_meta = dict(
            classes=classes,
            palette=None if palette is None else [tuple(colour) for colour in palette],
        )

    def row(self, image: Picture, found: Mapping[str, Any]) -> Picture:
        """Draw the panels side by side, (H, W, 3) in RGB.

        Args:
            image: (H, W, 3) in RGB.
            found: Boxes by title: ``InstanceData`` with ``bboxes`` (n, 4) in pixels of the image,
                ``labels``, and for predictions ``scores``.
        """
        panels = [self._panel(image, title, boxes) for title, boxes in found.items()]
        gap = np.full((len(panels[0]), GAP, 3), WHITE, dtype=np.uint8)
        return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)

    def _panel(self, image: Picture, title: str, boxes: Any) -> Picture:
        from mmdet.structures import DetDataSample

        predicted = 'scores' in boxes
        if predicted:
            boxes = boxes[boxes.scores > self.score_thr]
            order = boxes.scores.argsort()  # the most confident label covers the others
            boxes = boxes[order]
        shown, factor = resized(image)
        boxes = boxes.clone()
        boxes.bboxes = boxes.bboxes * factor
        canvas = np.pad(shown, ((0, MARGIN), (0, MARGIN), (0, 0)), constant_values=WHITE)
        self._visualizer.add_datasample(
            title,
            canvas,
            DetDataSample(**{'pred_instances' if predicted else 'gt_instances': boxes}),
            draw_gt=not predicted,
            draw_pred=predicted,
            pred_score_thr=self.score_thr,
        )
        drawn = self._visualizer.get_image()
        number = f'{len(boxes)} box' if len(boxes) == 1 else f'{len(boxes)} boxes'
        return np.concatenate([self._title(f'{title}: {number}', drawn.shape[1]), drawn])

    def _title(self, title: str, width: int) -> Picture:
        """Draw a white strip with black letters, small enough to fit."""
        self._visualizer.set_image(np.full((TITLE, width, 3), WHITE, dtype=np.uint8))
        size = min(12.0, 72 / DPI * (width - 8) / (0.65 * len(title)))
        self._visualizer.draw_texts(
            title,
            np.array([4, TITLE / 2]),
            font_sizes=size,
            colors='k',
            vertical_alignments='center',
        )
        strip: Picture = self._visualizer.get_image()
        return strip


def resized(image: Picture) -> tuple[Picture, float]:
    """Return an image at a legible size, and the factor; small images keep their pixels as squares.

    Example:
        >>> picture, factor = resized(np.zeros((96, 96, 3), dtype=np.uint8))
        >>> picture.shape, factor
        ((480, 480, 3), 5.0)
    """
    from mmcv import imrescale  # here, because the import takes a second

    side = min(image.shape[:2])
    if side > 2 * SIDE:
        smaller: Picture = imrescale(image, SIDE / side, interpolation='area')
        return smaller, SIDE / side
    factor = max(1, round(SIDE / side))
    return image.repeat(factor, axis=0).repeat(factor, axis=1), float(factor)


def sheet(rows: Sequence[Picture]) -> Picture:
    """Return pictures below each other, the narrower ones padded with white."""
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=WHITE)
        for row in rows
    ]
    return np.concatenate(padded)
