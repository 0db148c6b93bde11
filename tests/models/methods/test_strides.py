"""Maps that are compared: strides are stated if they differ, and rows must be images."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.logging import MMLogger
from torch import nn

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.models.methods import GroupHints, Hint, RelationMethod
from mmkd_plugin.outputs import NetworkOutput


def probe(key: str, size: tuple[int, int] | None = (64, 64), **sides: int) -> TeacherProbe:
    """Return a probe with maps of these sides, or vectors where the side is 0."""
    features = {
        tap: torch.zeros(2, 4, side, side) if side else torch.zeros(2, 4)
        for tap, side in sides.items()
    }
    return TeacherProbe(key, NetworkOutput(features=features), nn.Identity(), size=size)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return the warnings that were logged."""
    found: list[str] = []
    monkeypatch.setattr(
        MMLogger.get_current_instance(),
        'log',
        lambda level, text: found.append(text) if level == logging.WARNING else None,
    )
    return lambda: found


@pytest.mark.parametrize(
    ('own', 'other', 'size', 'strides'),
    [
        (8, 8, (64, 64), None),
        (8, 4, (64, 64), ('8', '16')),
        (14, 14, (224, 224), None),
        (13, 14, (224, 224), None),  # ceil and floor of one stride
        (8, 4, None, None),
        (0, 0, (64, 64), None),
        (1, 2, (64, 64), None),  # pooled: no stride
    ],
)
def test_pair_of_other_strides_is_logged(
    own: int, other: int, size: Any, strides: tuple[str, str] | None, lines: Any
) -> None:
    method = Hint([dict(student='a', teacher='b')])
    method.build(probe('student', size, a=own), [probe('teachers[0]', size, b=other)])
    if strides is None:
        assert lines() == []
    else:
        [line] = lines()
        assert all(f'stride {stride}' in line for stride in strides)
        assert "student 'a'" in line and "teachers[0] 'b'" in line


def test_groups_of_other_strides_are_what_the_method_means(lines: Any) -> None:
    method = GroupHints(['a', 'c'], 'b', mapping=[1])
    method.build(probe('student', a=8, c=4), [probe('teachers[0]', b=8)])
    assert lines() == []


@pytest.mark.parametrize('side', ['tap', 'teacher_tap'])
def test_relation_between_rows_that_are_no_images_is_refused(side: str) -> None:
    method = RelationMethod(dict(type='DistanceLoss'), tap='a')
    probes = [probe('student', a=0), probe('teacher', a=0)]
    windows = NetworkOutput(features=dict(a=torch.zeros(8, 4)))
    probes[side == 'teacher_tap'] = TeacherProbe('x', windows, nn.Identity(), size=(64, 64))
    with raises_config_error(side, 'a', '8 rows for 2 images', fix='first axis'):
        method.build(Probe(probes[0].key, probes[0].output, size=(64, 64)), [probes[1]])
