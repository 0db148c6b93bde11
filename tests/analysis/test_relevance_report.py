from pathlib import Path

import numpy as np
import pytest
import torch

from mmkd_plugin.analysis.relevance import Relevance
from mmkd_plugin.analysis.relevance_report import draw_relevance, relevance_numbers, save_maps


def hand_made(name: str, maps: list[list[list[float]]], whole: str = '') -> Relevance:
    return Relevance(
        name,
        torch.tensor(maps),
        torch.tensor([2.0, 4.0]),
        torch.tensor([0, 1]),
        torch.tensor([0, 2]),
        whole,
    )


def test_relevance_numbers_are_sums_shares_and_cosines() -> None:
    found = [
        hand_made('teacher', [[[1.0, 1.0]], [[0.0, 2.0]]]),
        hand_made('student', [[[1.0, 1.0]], [[2.0, 2.0]]]),
        hand_made('f_inh', [[[1.0, 0.0]], [[2.0, 0.0]]], 'student'),
        hand_made('f_exp', [[[0.0, 1.0]], [[0.0, 2.0]]], 'student'),
    ]
    numbers = {one['name']: one for one in relevance_numbers(found, ['teacher'])['networks']}
    half = 0.5**0.5
    assert numbers['student']['cosines'] == {'teacher': pytest.approx((1 + half) / 2)}
    assert numbers['f_inh']['cosines'] == {
        'teacher': pytest.approx(half / 2),
        'f_exp': pytest.approx(0.0),
    }
    assert numbers['f_exp']['cosines'] == {
        'teacher': pytest.approx((half + 1) / 2),
        'f_inh': pytest.approx(0.0),
    }
    assert (numbers['f_inh']['share'], numbers['student']['share']) == (0.5, None)  # 3 of 6
    assert (
        numbers['teacher']['accuracy'],
        numbers['teacher']['score'],
        numbers['teacher']['sum'],
    ) == (50.0, 3.0, 2.0)
    assert relevance_numbers(found, ['teacher'])['sums'][1] == dict(
        label=1, teacher=2.0, student=4.0, f_inh=2.0, f_exp=2.0
    )


def test_draw_relevance_titles_captions_and_scales() -> None:
    found = [
        hand_made('teacher', [[[1.0, 8.0]], [[0.0, 2.0]]]),
        hand_made('student', [[[1.0, -3.0]], [[2.0, 2.0]]]),
        hand_made('f_inh', [[[1.0, 0.0]], [[2.0, 0.0]]], 'student'),
    ]
    images = [torch.zeros(3, 2, 2, dtype=torch.uint8) for _ in range(2)]
    figure = draw_relevance(found, images, [0, 1], 'abc'.__getitem__)
    panels = [figure.axes[row * 4 : row * 4 + 4] for row in range(2)]
    assert [axes.get_title() for axes in panels[0]] == ['image', 'teacher', 'student', 'f_inh']
    assert [axes.get_xlabel() for axes in panels[0]] == [
        'class a',
        'score 2.0',
        'score 2.0',
        'adds +1.0',
    ]
    assert [axes.get_xlabel() for axes in panels[1]] == [
        'class b',
        'score 4.0, predicts c',
        'score 4.0, predicts c',
        'adds +2.0',
    ]
    assert [axes.images[0].get_clim() for axes in panels[0][1:]] == [
        (-8.0, 8.0),
        (-3.0, 3.0),
        (-3.0, 3.0),
    ]


def test_draw_relevance_shows_files_of_opencv_in_their_colours() -> None:
    image = torch.zeros(3, 1, 2, dtype=torch.uint8)
    image[2, 0, 0] = 255  # red, last in BGR
    axes = draw_relevance([], [image], [0], str).axes[0]
    assert axes.images[0].get_array().tolist() == [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]


def test_draw_relevance_breaks_long_titles() -> None:
    maps = hand_made('f_inh of layer3.0.relu2:input', [[[1.0, 0.0]], [[2.0, 0.0]]])
    images = [torch.zeros(3, 2, 2, dtype=torch.uint8)] * 2
    axes = draw_relevance([maps], images, [0, 1], str).axes[1]
    assert axes.get_title() == 'f_inh of\nlayer3.0.relu2:input'


def test_save_maps_writes_them_by_name(tmp_path: Path) -> None:
    maps = hand_made('teacher', [[[1.0, 8.0]], [[0.0, 2.0]]])
    with np.load(save_maps([maps], tmp_path / 'maps.npz')) as saved:
        assert list(saved) == ['teacher']
        np.testing.assert_array_equal(saved['teacher'], maps.maps.numpy())
