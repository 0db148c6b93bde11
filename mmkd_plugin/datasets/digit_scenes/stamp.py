"""A piece of a handwritten image, turned and scaled to a wanted size, ready to be pressed onto a canvas."""

import math

import numpy as np
from numpy.typing import NDArray

INK = 0.25  # from this opacity on a pixel is ink: enough to be seen through the noise

Stamp = NDArray[
    np.float32
]  # (h, w), opacity in [0, 1]; there is ink in the first and last row and column


def stamp_of(image: NDArray[np.uint8], longest: float, turn: float) -> Stamp:
    """Turn the ink of an image, scale it until it is ``longest`` pixels long, and cut it out.

    The arithmetic is numpy's on float64, element by element, and not OpenCV's, whose results differ by its version and
    the machine's instructions: the same arguments give the same stamp anywhere.

    Args:
        image: (H, W), white ink on black, with at least one pixel that is ink.
        longest: Longer side of the upright box around the turned ink, in pixels; kept to within a pixel.
        turn: In radians.

    Returns:
        A stamp without margin.
    """
    cos, sin = math.cos(turn), math.sin(turn)
    rows, columns = np.nonzero(image >= 255 * INK)
    right, down = cos * columns - sin * rows, sin * columns + cos * rows
    (left, width), (top, height) = (
        (x.min(), np.ptp(x) + abs(cos) + abs(sin)) for x in (right, down)
    )  # pixels have size
    scale = longest / max(width, height)
    # Where each pixel of the stamp, with one to spare all around, lies in the image.
    x = (
        (np.arange(-1, math.ceil(width * scale) + 1) + 0.5) / scale
        + left
        - (abs(cos) + abs(sin)) / 2
    )
    y = (
        (np.arange(-1, math.ceil(height * scale) + 1)[:, None] + 0.5) / scale
        + top
        - (abs(cos) + abs(sin)) / 2
    )
    opacity = (_sample(image, cos * y - sin * x, cos * x + sin * y) / 255).astype(np.float32)
    left_edge, top_edge, right_edge, bottom_edge = tight_box(opacity >= INK)
    return opacity[top_edge:bottom_edge, left_edge:right_edge]


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The edges (left, top, right, bottom) of the smallest box that holds all that is true; right and bottom are beyond it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _sample(
    image: NDArray[np.uint8], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Read an image between its pixels, bilinearly; beyond it everything is black."""
    padded = np.pad(image, 1).astype(np.float64)
    height, width = image.shape
    y, x = np.clip(y + 1, 0, height + 0.999), np.clip(x + 1, 0, width + 0.999)
    top, left = y.astype(np.int64), x.astype(np.int64)
    y, x = y - top, x - left
    upper = padded[top, left] * (1 - x) + padded[top, left + 1] * x
    lower = padded[top + 1, left] * (1 - x) + padded[top + 1, left + 1] * x
    return upper * (1 - y) + lower * y
