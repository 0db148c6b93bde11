"""Strides of dense heads, and the locations in the padding."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import dense_families as families
from helpers import detection as small
from helpers.errors import ANY, raises_config_error

from mmkd_plugin.adapters import TappedModel
from mmkd_plugin.adapters.dense_detector import _inside as inside
from mmkd_plugin.adapters.dense_locations import first_priors, strides_of

SIZE = (96, 128)
LEVELS = ((12, 16, 1), (6, 8, 1))


def head(strides: Any, name: str = 'prior_generator') -> Any:
    return SimpleNamespace(**{name: SimpleNamespace(strides=strides)})


@pytest.mark.parametrize('name', ['prior_generator', 'square_anchor_generator'])
@pytest.mark.parametrize('strides', [[8, 16], [(8, 8), (16, 16)], [7.8, 15.5]])
def test_strides_are_those_of_the_generator(name: str, strides: Any) -> None:
    first = strides[0][0] if isinstance(strides[0], tuple) else strides[0]
    found, stated = strides_of(head(strides, name), SIZE, LEVELS)
    assert stated and found[0] == (first, first)


def test_strides_of_a_head_without_generator_are_its_own() -> None:
    own = SimpleNamespace(strides=[8, 16])
    assert strides_of(own, SIZE, LEVELS) == (((8.0, 8.0), (16.0, 16.0)), True)


@pytest.mark.parametrize('strides', [None, [8], [8, 16, 32]])
def test_strides_that_are_not_stated_are_those_of_layers(strides: Any) -> None:
    """A stride of 8 makes 38 columns of 300 pixels."""
    found, stated = strides_of(head(strides), (96, 300), ((12, 38, 1), (6, 19, 1)))
    assert not stated and found == ((8.0, 8.0), (16.0, 16.0))


@pytest.mark.parametrize('strides', [[8, 32], [4, 16]])
def test_strides_that_do_not_fit_the_maps_are_those_of_a_grid(strides: Any) -> None:
    found, stated = strides_of(head(strides), SIZE, ((10, 16, 1), (6, 8, 1)))
    assert not stated and found == ((8.0, 9.6), (16.0, 16.0))


def test_inside_is_decided_by_the_corner_of_a_cell() -> None:
    valid = inside([(48, 96)], ((10, 10, 1),), ((9.6, 9.6),), torch.device('cpu'))
    assert valid.view(10, 10).all(dim=1).tolist() == [True] * 5 + [False] * 5


def test_padding_of_solo_is_found_on_its_grid() -> None:
    model = small.network(families.detector('solo')).eval()
    net = TappedModel(model, 'student')
    net.request([], scores=True)
    batch = model.data_preprocessor(families.batch_for('solo'), False)
    scores = net.observe(batch['inputs'], data_samples=batch['data_samples']).scores
    assert scores is not None and scores.valid is not None
    assert scores.strides == () and scores.valid[0].all()
    grid = scores.valid[1][:100].view(10, 10)  # 72 of 96 rows: cells of 9.6 pixels
    assert grid.all(dim=1).tolist() == [True] * 8 + [False] * 2


def test_first_priors_are_anchors_or_the_points_in_their_middle() -> None:
    retina = small.network(small.detector('retinanet')).bbox_head
    assert len(first_priors(retina, 5, points=False)[0]) == 9 * 4
    assert first_priors(retina, 2, points=True)[1] == (0.0,) * 18
    fcos = small.network(small.detector('fcos')).bbox_head
    assert first_priors(fcos, 2, points=True) == ((4.0, 4.0), (8.0, 8.0))
    assert first_priors(SimpleNamespace(), 2, points=True) == ()


def test_teacher_with_other_strides_is_refused_though_its_maps_are_as_large(
    tmp_path: Path,
) -> None:
    """At 64 pixels levels of strides 64, 128 and 256 all have one position."""
    student = small.detector('gfl')
    config = small.detector('gfl', bbox_head__anchor_generator__strides=[8, 16, 32, 128, 256])
    teacher = small.teacher(tmp_path, config)
    with raises_config_error(
        'teachers[0] (t1)', ANY, 'strides of student', 'strides 8, 16, 32, 128, 256'
    ):
        small.distiller(tmp_path, student, [teacher])
