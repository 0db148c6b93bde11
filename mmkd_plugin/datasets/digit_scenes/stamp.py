"""Pieces of handwritten images, turned and scaled, ready to be pressed onto a canvas."""

import math

import numpy as np
from numpy.typing import NDArray

INK = 0.25  # a pixel of this opacity or more is ink: visible through the noise

# (h, w), opacity in [0, 1]; the first and last row and column contain ink
Stamp = NDArray[np.float32]


def stamp_of(image: NDArray[np.uint8], longest: float, turn: float) -> Stamp:
    """Turn the ink of an image, scale it until it is ``longest`` pixels long, and cut it out.

    The arithmetic is numpy's on float64, element by element, so the same arguments give the same
    stamp on every machine. OpenCV's results differ by its version and the machine's instructions.

    Args:
        image: (H, W), white ink on black, with at least one pixel of ink.
        longest: Longer side of the upright box around the turned ink, in pixels; kept to within a
            pixel.
        turn: In radians.

    Returns:
        A stamp without margin.

    Example:
        >>> bar = np.zeros((28, 28), np.uint8)
        >>> bar[4:24, 10:14] = 255
        >>> stamp_of(bar, longest=10, turn=math.pi / 2).shape
        (2, 10)
    """
    cos, sin = math.cos(turn), math.sin(turn)
    pixel = abs(cos) + abs(sin)  # side of the upright box around a turned pixel
    rows, columns = np.nonzero(image >= 255 * INK)
    right, down = cos * columns - sin * rows, sin * columns + cos * rows
    # Not ``+ pixel``: the order of the sum decides the last bit.
    (left, width), (top, height) = (
        (x.min(), np.ptp(x) + abs(cos) + abs(sin)) for x in (right, down)
    )
    scale = longest / max(width, height)
    # The position in the image of each pixel of the stamp, with a margin of one pixel.
    x = (np.arange(-1, math.ceil(width * scale) + 1) + 0.5) / scale + left - pixel / 2
    y = (np.arange(-1, math.ceil(height * scale) + 1)[:, None] + 0.5) / scale + top - pixel / 2
    opacity = (_sample(image, cos * y - sin * x, cos * x + sin * y) / 255).astype(np.float32)
    left_edge, top_edge, right_edge, bottom_edge = tight_box(opacity >= INK)
    return opacity[top_edge:bottom_edge, left_edge:right_edge]


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the edges (left, top, right, bottom) of the smallest box around all that is true.

    The right and the bottom edge lie beyond the last pixel.

    Example:
        >>> tight_box(np.array([[False, False, False], [False, True, True]]))
        (1, 1, 3, 2)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _sample(
    image: NDArray[np.uint8], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Read an image between its pixels, bilinearly; everything outside is black."""
    padded = np.pad(image, 1).astype(np.float64)
    height, width = image.shape
    y, x = np.clip(y + 1, 0, height + 0.999), np.clip(x + 1, 0, width + 0.999)
    top, left = y.astype(np.int64), x.astype(np.int64)
    y, x = y - top, x - left
    upper = padded[top, left] * (1 - x) + padded[top, left + 1] * x
    lower = padded[top + 1, left] * (1 - x) + padded[top + 1, left + 1] * x
    return upper * (1 - y) + lower * y
