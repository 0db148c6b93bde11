"""Images of a view in the area that the student's batch shows."""

from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error

from mmkd_plugin.views.batches import (
    in_area_of_student,
    require_no_batch_resize,
    resized,
    sizes_of,
    view_of,
    without_views,
)

Sizes = list[tuple[int, int]]

#: (height, width) of the student's images and batch, and of the view's images and batch; then the
#: expected batch of the view.
AREAS: dict[str, tuple[Sizes, tuple[int, int], Sizes, tuple[int, int], tuple[int, int]]] = {
    'all full': ([(8, 8)] * 2, (8, 8), [(12, 20)] * 2, (12, 20), (12, 20)),
    'same': ([(6, 8), (8, 5)], (8, 8), [(6, 8), (8, 5)], (8, 8), (8, 8)),
    'twice': ([(6, 8), (8, 5)], (32, 32), [(12, 16), (16, 10)], (16, 16), (64, 64)),
    'half': ([(12, 16), (16, 10)], (32, 32), [(6, 8), (8, 5)], (32, 32), (16, 16)),
    # Sides are rounded.
    'rounded': (
        [(67, 100), (100, 75)],
        (128, 128),
        [(100, 150), (150, 112)],
        (150, 150),
        (192, 192),
    ),
    'both ways': ([(4, 8), (8, 4)], (8, 8), [(8, 12), (16, 6)], (16, 12), (16, 12)),
}


@pytest.mark.parametrize('case', AREAS)
def test_area_is_that_of_the_student(case: str) -> None:
    own_sizes, padded, sizes, whole, expected = AREAS[case]
    student = torch.zeros(2, 1, *padded)
    view = torch.full((2, 3, *whole), 9.0)
    for image, (height, width) in zip(view, sizes, strict=True):
        image[:, :height, :width] = 1.0
    found = in_area_of_student(view, sizes, student, own_sizes, 9.0, 'teacher')
    assert tuple(found.shape) == (2, 3, *expected)
    for image, (height, width) in zip(found, sizes, strict=True):
        assert (image == 1.0).sum() == 3 * height * width
        assert (image[:, :height, :width] == 1.0).all()
        assert ((image == 1.0) | (image == 9.0)).all()


@pytest.mark.parametrize('sizes', [[(12, 16), (8, 5)], [(6, 8), (16, 10)], [(12, 16), (16, 16)]])
def test_resolutions_of_two_factors_in_a_padded_batch_are_refused(sizes: Sizes) -> None:
    student, own = torch.zeros(2, 3, 32, 32), [(6, 8), (8, 5)]
    with raises_config_error('teacher.view.pipeline', sizes, fix='same rule'):
        in_area_of_student(torch.zeros(2, 3, 16, 16), sizes, student, own, 0.0, 'teacher')


def test_sizes_of_raw_batches() -> None:
    images = [torch.zeros(3, 4, 5), torch.zeros(3, 6, 7)]
    assert sizes_of(dict(inputs=images)) == [(4, 5), (6, 7)]
    assert sizes_of(dict(inputs=torch.zeros(2, 3, 4, 5))) == [(4, 5)] * 2


def test_views_of_raw_batches() -> None:
    raw = dict(inputs=1, views=dict(a=2))
    assert view_of(raw, 'a', 'teacher') == 2
    assert without_views(raw) == dict(inputs=1)
    assert raw['views'], 'the batch of the loader stays'
    with raises_config_error('teacher.view', ['a'], fix='MultiViewDataset'):
        view_of(raw, 'b', 'teacher')


def test_resized_keeps_images_of_the_size() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert resized(images, (4, 4)) is images
    torch.testing.assert_close(resized(images, (1, 1)).mean(), images.mean(), atol=0.2, rtol=0)


class BatchSyncRandomResize:
    """As MMDet's."""


class Mixup:
    """As MMPretrain's."""


@pytest.mark.parametrize('augments', [[BatchSyncRandomResize()], BatchSyncRandomResize()])
def test_batch_augmentations_that_resize_are_refused(augments: Any) -> None:
    with raises_config_error('teacher.view', 'BatchSyncRandomResize', fix='pipelines'):
        require_no_batch_resize(augments, 'teacher')


@pytest.mark.parametrize('augments', [None, [], [Mixup()]])
def test_mixup_and_nothing_are_no_batch_resize(augments: Any) -> None:
    require_no_batch_resize(augments, 'teacher')
