"""Distortions that make small digits hard: affine, clutter, contrast, noise."""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

ROTATION = 25.0  # degrees, either way
SCALE = (0.75, 1.05)
SHEAR = 0.2  # either way, as a slope
SHIFT = 0.15  # either way, as a part of the side
CONTRAST = (0.6, 1.0)
NOISE = 0.15  # standard deviation, as a part of white
PATCHES = 2
PATCH = 7  # side in pixels


def distort(
    image: NDArray[np.uint8], clutter: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Distort one image at random: shear, scale, turn and shift it, cover it with clutter, dim it, add noise.

    Args:
        image: (H, W).
        clutter: Images to cut the clutter from, (N, H, W): a patch of some image's middle, laid anywhere; where it meets
            the image the brighter of the two remains.
        rng: Where the chance comes from. Every call draws equally often, whatever the image.

    Returns:
        A new image, (H, W).
    """
    height, width = image.shape
    chances = iter(
        rng.random(6 + 5 * PATCHES).tolist()
    )  # one call: many small ones would cost most of the time
    out = cv2.warpAffine(
        image, _random_affine(height, width, chances), (width, height), flags=cv2.INTER_LINEAR
    )
    for _ in range(PATCHES):
        source = clutter[_below(len(clutter), chances)]
        # The middle half of an image is where its strokes are.
        top = height // 4 + _below(height // 2 - PATCH + 1, chances)
        left = width // 4 + _below(width // 2 - PATCH + 1, chances)
        y, x = _below(height - PATCH + 1, chances), _below(width - PATCH + 1, chances)
        window = out[y : y + PATCH, x : x + PATCH]
        np.maximum(window, source[top : top + PATCH, left : left + PATCH], out=window)
    noise = rng.standard_normal((height, width), dtype=np.float32)
    noise *= 255 * NOISE
    noise += out * np.float32(_between(*CONTRAST, chances))
    return noise.clip(0, 255).astype(np.uint8)


def _random_affine(height: int, width: int, chances: Iterator[float]) -> NDArray[np.float64]:
    """Draw the 2x3 matrix that shears, scales and turns the image about its centre, then shifts it."""
    turn = math.radians(_between(-ROTATION, ROTATION, chances))
    size = _between(*SCALE, chances)
    shear = _between(-SHEAR, SHEAR, chances)
    cos, sin = size * math.cos(turn), size * math.sin(turn)
    a, b, c, d = cos, shear * cos - sin, sin, shear * sin + cos
    x, y = (width - 1) / 2, (height - 1) / 2
    right, down = (
        width * _between(-SHIFT, SHIFT, chances),
        height * _between(-SHIFT, SHIFT, chances),
    )
    return np.array([[a, b, x - a * x - b * y + right], [c, d, y - c * x - d * y + down]])


def _between(low: float, high: float, chances: Iterator[float]) -> float:
    return low + (high - low) * next(chances)


def _below(bound: int, chances: Iterator[float]) -> int:
    return int(bound * next(chances))
