from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.errors import ANY, raises_config_error

from mmkd_plugin.adapters.base import Adapter
from mmkd_plugin.adapters.compat import (
    ClassMap,
    require_comparable,
    require_names_of_data,
    require_same_task,
)
from mmkd_plugin.outputs import ClassScores, NetworkOutput

LEVELS = ((2, 2, 1), (1, 1, 1))


def scores(classes: int = 3, **changes: Any) -> NetworkOutput:
    """Outputs of a dense detector of two levels."""
    settings = dict(activation='sigmoid', levels=LEVELS)
    return NetworkOutput(ClassScores(torch.zeros(1, 5, classes), **{**settings, **changes}))


def adapter(task: str) -> Adapter:
    one = Adapter()
    one.task = task
    return one


@pytest.mark.parametrize(
    ('task', 'other', 'fits'),
    [
        ('detection', 'detection', True),
        ('', 'detection', True),
        ('classification', '', True),
        ('classification', 'detection', False),
    ],
)
def test_same_task_is_required_of_known_models(task: str, other: str, fits: bool) -> None:
    arguments = 'teachers[0]', adapter(task), 'student', adapter(other)
    if fits:
        require_same_task(*arguments)
        return
    with raises_config_error('teachers[0]', task, f'a model for {other}, as student is'):
        require_same_task(*arguments)


@pytest.mark.parametrize(
    'changes',
    [
        dict(activation='softmax'),
        dict(background=True),
        dict(levels=((2, 2, 1),)),
        dict(levels=((2, 1, 1), (1, 1, 1))),
        dict(levels=((2, 2, 3), (1, 1, 3))),
        dict(levels=(), rois=(torch.zeros(5, 5),)),
        dict(levels=()),
    ],
)
def test_another_layout_is_refused_with_both(changes: dict[str, Any]) -> None:
    found, expected = scores(**changes), scores()
    both = f'the layout of student, {expected.scores}', f'(found {found.scores})'
    with raises_config_error('teachers[0]', ANY, *both, fix='Use methods on taps alone'):
        require_comparable('teachers[0]', found, 'student', expected)


def test_regions_of_another_number_of_stages_are_refused_and_their_number_is_free() -> None:
    def stages(*regions: int) -> NetworkOutput:
        rois = tuple(torch.zeros(count, 5) for count in regions)
        return scores(activation='softmax', background=True, levels=(), rois=rois)

    require_comparable('teachers[0]', stages(3), 'student', stages(1))
    with raises_config_error('teachers[0]', ANY, '1 stage(s)', '2 stage(s)'):
        require_comparable('teachers[0]', stages(3, 3), 'student', stages(1))


def test_another_number_of_classes_names_the_class_map() -> None:
    require_comparable('teachers[0]', scores(), 'student', scores())
    with raises_config_error('teachers[0]', 5, 'the 3 classes of student', fix='class_map=[…]'):
        require_comparable('teachers[0]', scores(5), 'student', scores())
    background = dict(activation='softmax', background=True)
    with raises_config_error('teachers[0]', 4, 'the 2 classes of student'):
        require_comparable(
            'teachers[0]', scores(5, **background), 'student', scores(3, **background)
        )


def test_network_without_scores_is_refused() -> None:
    for both in ((NetworkOutput(), scores()), (scores(), NetworkOutput())):
        with raises_config_error('teachers[0]', None, 'no class scores'):
            require_comparable('teachers[0]', both[0], 'student', both[1])


def test_class_map_chooses_the_classes_of_the_student() -> None:
    logits = torch.arange(10.0).view(1, 2, 5)
    output = NetworkOutput(ClassScores(logits, 'sigmoid'), {'neck': logits})
    mapped = ClassMap([4, 0], 'class_map')(output)
    assert mapped.scores.logits.tolist() == [[[4.0, 0.0], [9.0, 5.0]]]
    assert mapped.feature('neck') is logits
    assert ClassMap(None, 'class_map')(output) is output
    bare = NetworkOutput(features={'neck': logits})
    assert ClassMap([4, 0], 'class_map')(bare) is bare


@pytest.mark.parametrize('indices', [[], (), 3, 'ab', [0, -1], [0, '1'], [0, 1.0], [True], {0: 1}])
def test_class_map_that_is_no_list_of_indices_is_refused(indices: Any) -> None:
    with raises_config_error('teachers[0].class_map', indices, 'list of class indices'):
        ClassMap(indices, 'teachers[0].class_map')


def test_class_map_beyond_the_classes_of_the_teacher_is_refused() -> None:
    with raises_config_error('class_map', 5, 'indices below 5'):
        ClassMap([4, 5, 0], 'class_map')(scores(5))


@pytest.mark.parametrize(
    ('found', 'expected', 'mentions'),
    [
        (['a', 'b'], ['b', 'a'], ["class 0 is 'b' there and 'a' here", 'class_map=[0, 1]']),
        (['a', 'b', 'c'], ['a', 'b'], ['3 classes', 'has 2', 'class_map=[0, 1, 2]']),
    ],
)
def test_other_class_names_are_refused_unless_they_are_mapped(
    found: list[str], expected: list[str], mentions: list[str]
) -> None:
    with raises_config_error('class_map', ANY, 'is missing', 'the training data', *mentions):
        ClassMap(None, 'class_map').require_names(found, 'the training data', expected)
    ClassMap([1, 0], 'class_map').require_names(found, 'the training data', expected)


def test_equal_or_unknown_class_names_pass() -> None:
    class_map = ClassMap(None, 'class_map')
    class_map.require_names(['a', 'b'], 'the training data', ('a', 'b'))
    class_map.require_names(None, 'the training data', ['a'])
    class_map.require_names(['a'], 'the training data', None)


@pytest.mark.parametrize(
    ('task', 'needs_scores', 'refused'),
    [
        ('detection', True, True),
        ('detection', False, False),
        ('classification', True, False),
    ],
)
def test_names_of_data_are_compared_for_detectors_with_scores(
    task: str, needs_scores: bool, refused: bool
) -> None:
    teacher = SimpleNamespace(
        adapter=adapter(task),
        needs_scores=needs_scores,
        classes=['a', 'b'],
        class_map=ClassMap(None, 'teachers[0].class_map'),
    )
    if not refused:
        require_names_of_data([teacher], dict(classes=['b', 'a']))
        return
    with raises_config_error('teachers[0].class_map', ANY, 'the training data'):
        require_names_of_data([teacher], dict(classes=['b', 'a']))
