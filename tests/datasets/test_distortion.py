import numpy as np
import pytest

from mmkd_plugin.datasets import distortion
from mmkd_plugin.datasets.distortion import distort


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """All distortions off; a test turns one on."""
    calm = dict(
        ROTATION=0.0, SCALE=(1.0, 1.0), SHEAR=0.0, SHIFT=0.0, CONTRAST=(1.0, 1.0), NOISE=0.0
    )
    for name, value in calm.items():
        monkeypatch.setattr(distortion, name, value)
    return monkeypatch


def digit() -> np.ndarray:
    image = np.zeros((28, 28), dtype=np.uint8)
    image[8:20, 10:14] = 200
    return image


BLACK = np.zeros((3, 28, 28), dtype=np.uint8)
WHITE = np.full((3, 28, 28), 255, dtype=np.uint8)


def moments(image: np.ndarray) -> tuple[float, float, float]:
    """Mass, and centre of mass as row and column."""
    mass = image.sum(dtype=float)
    rows, columns = np.indices(image.shape)
    return mass, (rows * image).sum() / mass, (columns * image).sum() / mass


def test_distort_with_everything_off_changes_nothing(calm: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(distort(digit(), BLACK, np.random.default_rng(0)), digit())


def test_distort_shifts_at_most_by_its_share_of_the_side(calm: pytest.MonkeyPatch) -> None:
    calm.setattr(distortion, 'SHIFT', 0.15)
    _, row, column = moments(digit())
    shifts = []
    for seed in range(200):
        _, y, x = moments(distort(digit(), BLACK, np.random.default_rng(seed)))
        shifts.append((y - row, x - column))
    # Uniform within 0.15 * 28 = 4.2 pixels, so the extremes of 200 are near it on either side.
    assert np.abs(shifts).max() <= 4.2 + 0.1
    assert np.min(shifts) < -4.0 and np.max(shifts) > 4.0


def test_distort_scales_about_the_centre(calm: pytest.MonkeyPatch) -> None:
    calm.setattr(distortion, 'SCALE', (0.5, 0.5))
    mass, row, column = moments(digit())
    smaller = moments(distort(digit(), BLACK, np.random.default_rng(0)))
    assert smaller[0] == pytest.approx(mass / 4, rel=0.1)
    # About the centre (13.5, 13.5): half as far from it as before.
    assert smaller[1:] == pytest.approx(((row + 13.5) / 2, (column + 13.5) / 2), abs=0.3)


def test_distort_turns_the_axis_and_keeps_centre_and_area(calm: pytest.MonkeyPatch) -> None:
    bar = np.zeros((28, 28), dtype=np.uint8)
    bar[4:24, 12:16] = 200  # upright, about the centre
    calm.setattr(distortion, 'ROTATION', 25.0)
    turns = []
    for seed in range(100):
        turned = distort(bar, BLACK, np.random.default_rng(seed))
        mass, row, column = moments(turned)
        assert mass == pytest.approx(bar.sum(), rel=0.05)
        assert (row, column) == pytest.approx((13.5, 13.5), abs=0.1)
        rows, columns = np.indices(turned.shape)
        y, x = rows - row, columns - column
        turns.append(
            np.rad2deg(
                0.5 * np.arctan2(2 * (turned * x * y).sum(), (turned * (y * y - x * x)).sum())
            )
        )
    assert -26 < min(turns) < -20 and 20 < max(turns) < 26


def test_distort_adds_two_patches_where_they_are_brighter(calm: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        image = distort(digit(), WHITE, np.random.default_rng(seed))
        white = int((image == 255).sum())
        assert 49 <= white <= 98  # 7 * 7 twice, overlapping at most wholly
        np.testing.assert_array_equal(
            np.where(image == 255, 0, image), np.where(image == 255, 0, digit())
        )
    calm.setattr(distortion, 'PATCHES', 50)
    np.testing.assert_array_equal(distort(digit(), BLACK, np.random.default_rng(0)), digit())


def test_distort_dims_within_its_contrast(calm: pytest.MonkeyPatch) -> None:
    calm.setattr(distortion, 'CONTRAST', (0.6, 1.0))
    peaks = [int(distort(digit(), BLACK, np.random.default_rng(seed)).max()) for seed in range(100)]
    assert 120 <= min(peaks) < 125 and 195 < max(peaks) <= 200


def test_distort_adds_noise_of_its_deviation(calm: pytest.MonkeyPatch) -> None:
    calm.setattr(distortion, 'NOISE', 0.15)
    grey = np.full((28, 28), 128, dtype=np.uint8)
    noisy = distort(grey, BLACK, np.random.default_rng(0)).astype(float)
    # 0.15 of 255 is 38; the mean of 784 pixels deviates by 38 / 28, and rounding down takes a half.
    assert noisy.std() == pytest.approx(38.25, rel=0.08)
    assert noisy.mean() == pytest.approx(127.5, abs=4)


def test_distort_depends_on_its_generator_and_changes_no_input() -> None:
    image, clutter = digit(), WHITE.copy()
    first = distort(image, clutter, np.random.default_rng(5))
    np.testing.assert_array_equal(image, digit())
    np.testing.assert_array_equal(clutter, WHITE)
    np.testing.assert_array_equal(first, distort(image, clutter, np.random.default_rng(5)))
    assert (first != distort(image, clutter, np.random.default_rng(6))).any()
