"""Distortions that make small digits hard: affine, clutter, contrast, noise."""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

ROTATION = 25.0  # degrees, either way
SCALE = (0.75, 1.05)
SHEAR = 0.2  # either way, as a slope
SHIFT = 0.15  # either way, as a share of the side
CONTRAST = (0.6, 1.0)
NOISE = 0.15  # standard deviation, as a share of white
PATCHES = 2
PATCH = 7  # side in pixels


def distort(
    image: NDArray[np.uint8], clutter: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return an image that is sheared, scaled, turned, shifted, cluttered, dimmed and made noisy.

    Args:
        image: (H, W).
        clutter: Images that clutter is cut from, (N, H, W). A patch comes from the middle of one of
            them and lies anywhere. The brighter pixel of patch and image remains.
        rng: The random generator. Every call draws the same number of values, whatever the image.

    Returns:
        A new image, (H, W).

    Example:
        >>> image, clutter = np.zeros((28, 28), np.uint8), np.zeros((3, 28, 28), np.uint8)
        >>> distort(image, clutter, np.random.default_rng(0)).shape
        (28, 28)
    """
    height, width = image.shape
    # One call, since many small ones would take most of the time.
    draws = iter(rng.random(6 + 5 * PATCHES).tolist())
    out = cv2.warpAffine(
        image, _random_affine(height, width, draws), (width, height), flags=cv2.INTER_LINEAR
    )
    for _ in range(PATCHES):
        source = clutter[_below(len(clutter), draws)]
        # The strokes of a digit are in the middle half of its image.
        top = height // 4 + _below(height // 2 - PATCH + 1, draws)
        left = width // 4 + _below(width // 2 - PATCH + 1, draws)
        y, x = _below(height - PATCH + 1, draws), _below(width - PATCH + 1, draws)
        window = out[y : y + PATCH, x : x + PATCH]
        np.maximum(window, source[top : top + PATCH, left : left + PATCH], out=window)
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise *= 255 * NOISE
    noise += out * np.float32(_between(*CONTRAST, draws))
    return noise.clip(0, 255).astype(np.uint8)


def _random_affine(height: int, width: int, draws: Iterator[float]) -> NDArray[np.float64]:
    """Return a random 2x3 matrix: shear, scale and turn about the image's centre, then shift."""
    turn = math.radians(_between(-ROTATION, ROTATION, draws))
    size = _between(*SCALE, draws)
    shear = _between(-SHEAR, SHEAR, draws)
    cos, sin = size * math.cos(turn), size * math.sin(turn)
    a, b, c, d = cos, shear * cos - sin, sin, shear * sin + cos
    x, y = (width - 1) / 2, (height - 1) / 2
    right = width * _between(-SHIFT, SHIFT, draws)
    down = height * _between(-SHIFT, SHIFT, draws)
    return np.array([[a, b, x - a * x - b * y + right], [c, d, y - c * x - d * y + down]])


def _between(low: float, high: float, draws: Iterator[float]) -> float:
    return low + (high - low) * next(draws)


def _below(bound: int, draws: Iterator[float]) -> int:
    return int(bound * next(draws))
