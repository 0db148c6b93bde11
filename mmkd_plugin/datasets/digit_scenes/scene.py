"""One scene: coloured handwritten digits among clutter, and the boxes of their visible ink."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmkd_plugin.datasets.digit_scenes.stamp import INK, Stamp, stamp_of, tight_box

# Each constant is part of every recipe, under its name in small letters: see recipe.py.
VERSION = 2  # of what the same random numbers draw
DIGITS = (2, 6)  # in a scene
SIZE = (13.0, 36.0)  # of a digit's longer side, in pixels
TURN = 25.0  # degrees, either way
OVERLAP = 0.15  # of two digits' boxes, at most, as a share of the smaller
SEEN = 0.7  # share of a digit's ink that stays visible, at least
CLUTTER = (0, 6)  # pieces in a scene
PATCH = 10  # side of the patch that a piece of clutter is cut from, in pixels of the original
CLUTTER_SIZE = (5.0, 11.0)  # of its longer side: less than any digit's
DARK = 128  # the background's colour is below it, in red, green and blue
SHADES = 40  # largest difference of the background from its colour, either way
LIGHT = 100  # smallest value of all other colours
CONTRAST = 70.0  # least difference in lightness of a colour from its ground, if one of eight has it
NOISE = 18.0  # standard deviation
PLACES = 50  # positions that are tried for a digit before the scene is laid out anew
LIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue, as in JPEG


@dataclass(frozen=True)
class Scene:
    """A picture and its n digits.

    Args:
        image: (S, S, 3).
        boxes: (n, 4), each as left, top, right and bottom edge.
        labels: (n,).
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    labels: NDArray[np.int64]


def compose(
    images: NDArray[np.uint8], labels: NDArray[np.int64], rng: np.random.Generator, size: int = 96
) -> Scene:
    """Compose a scene: a smooth dark background, light clutter and digits on it, noise over all.

    Every digit lies wholly within the picture, at least a pixel from its border. A later digit may
    hide a part of an earlier one, of whose ink ``SEEN`` remains visible. A box is tight around the
    visible ink: hidden ink is not boxed. ``OVERLAP`` holds for these boxes. Clutter hides nothing,
    since it lies underneath.

    Args:
        images: The images that digits and clutter are taken from, (N, H, W), white ink on black.
        labels: (N,).
        rng: The random generator. A scene depends on no other state.
        size: S, the side of the picture in pixels.

    Returns:
        The scene.

    Example:
        >>> images = np.zeros((1, 28, 28), np.uint8)
        >>> images[0, 4:24, 10:16] = 255
        >>> scene = compose(images, np.array([1]), np.random.default_rng(0), size=64)
        >>> scene.image.shape, set(scene.labels.tolist())
        ((64, 64, 3), {1})
    """
    layout = None
    while layout is None:
        chosen = rng.integers(len(images), size=rng.integers(DIGITS[0], DIGITS[1] + 1))
        turns = np.radians(rng.uniform(-TURN, TURN, len(chosen))).tolist()
        sides = rng.uniform(*SIZE, len(chosen)).tolist()
        stamps = [
            stamp_of(images[row], side, turn)
            for row, side, turn in zip(chosen, sides, turns, strict=True)
        ]
        layout = _lay_out(stamps, size, rng)
    positions, boxes = layout
    canvas = _background(size, rng)
    for _ in range(rng.integers(CLUTTER[0], CLUTTER[1] + 1)):
        piece = _piece(images[rng.integers(len(images))], rng)
        left, top = rng.integers((size - piece.shape[1] + 1, size - piece.shape[0] + 1)).tolist()
        _press(canvas, piece, left, top, rng)
    for stamp, (left, top) in zip(stamps, positions, strict=True):
        _press(canvas, stamp, left, top, rng)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(NOISE)
    return Scene(canvas.round().clip(0, 255).astype(np.uint8), boxes, labels[chosen])


def shares(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the area that two boxes share, as a share of the smaller of the two.

    Args:
        first: (A, 4).
        second: (B, 4).

    Returns:
        (A, B), for each of the first with each of the second.

    Example:
        >>> shares(np.array([[0, 0, 4, 4]]), np.array([[2, 0, 6, 4], [4, 0, 8, 4]])).tolist()
        [[0.5, 0.0]]
    """
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    common = (np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return common / np.minimum(areas[0][:, None], areas[1][None])


def _lay_out(
    stamps: list[Stamp], size: int, rng: np.random.Generator
) -> tuple[list[tuple[int, int]], NDArray[np.int64]] | None:
    """Return the corner of each digit and the boxes of all; None if one finds no position."""
    owner = np.full((size, size), -1)  # the digit whose ink is visible in a pixel
    boxes = np.zeros((0, 4), dtype=np.int64)
    positions: list[tuple[int, int]] = []
    ink = np.array([(stamp >= INK).sum() for stamp in stamps])
    for number, stamp in enumerate(stamps):
        height, width = stamp.shape
        corners = rng.integers(1, (size - width, size - height), size=(PLACES, 2))
        full = np.hstack([corners, corners + np.array([width, height])])
        for left, top, right, bottom in full[(shares(full, boxes) <= OVERLAP).all(1)].tolist():
            trial = owner.copy()
            trial[top:bottom, left:right][stamp >= INK] = number
            if (np.bincount(trial[trial >= 0]) < SEEN * ink[: number + 1]).any():
                continue
            # A covered box shrinks, so that its share of an overlap can grow.
            seen = np.array([tight_box(trial == other) for other in range(number + 1)])
            if np.tril(shares(seen, seen), -1).max() <= OVERLAP:
                owner, boxes = trial, seen
                positions.append((left, top))
                break
        else:
            return None
    return positions, boxes


def _background(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a dark colour with smooth shades of it."""
    knots = rng.integers(DARK, size=3) + rng.integers(-SHADES, SHADES + 1, size=(4, 4, 3))
    # EXACT is OpenCV's name for the same bits on every machine.
    shades = cv2.resize(
        knots.clip(0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR_EXACT
    )
    return shades.astype(np.float32)


def _piece(image: NDArray[np.uint8], rng: np.random.Generator) -> Stamp:
    """Cut clutter from a digit: the patch around a pixel of its ink, turned at random."""
    rows, columns = np.nonzero(image >= 255 * INK)
    pixel = rng.integers(len(rows))
    top, left = max(0, rows[pixel] - PATCH // 2), max(0, columns[pixel] - PATCH // 2)
    patch = image[top : top + PATCH, left : left + PATCH]
    return stamp_of(patch, rng.uniform(*CLUTTER_SIZE), rng.uniform(0, 2 * math.pi))


def _press(
    canvas: NDArray[np.float32], stamp: Stamp, left: int, top: int, rng: np.random.Generator
) -> None:
    """Colour the canvas under the stamp in a random colour that is lighter than the ground."""
    under = canvas[top : top + stamp.shape[0], left : left + stamp.shape[1]]
    colours = rng.integers(LIGHT, 256, size=(8, 3)).astype(np.float32)
    lighter = (colours - under.mean((0, 1))) @ np.array(LIGHTNESS, dtype=np.float32)
    enough = lighter >= CONTRAST
    colour = colours[enough.argmax() if enough.any() else lighter.argmax()]
    under += stamp[..., None] * (colour - under)
