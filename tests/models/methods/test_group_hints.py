from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.classification import built, output
from helpers.errors import raises_config_error
from helpers.multi_teacher import DIMS, HINTS, TEACHERS, largest, student_output, teacher_outputs

from mmkd_plugin.models.methods import GroupHints, Requests


def build(**options: Any) -> GroupHints:
    return built(GroupHints(**{**HINTS, **options}), student_output(1), teacher_outputs(1))


def test_measured_order_decides_which_group_a_teacher_supervises() -> None:
    method, student, teachers = build(mapping='best_high'), student_output(), teacher_outputs()
    shapes = [regressor.weight.shape for regressor in method.regressors]
    assert shapes == [(7, DIMS)] * TEACHERS, 'wide enough for any group'
    with raises_config_error('mapping', 'best_high', fix='EvaluateTeachers'):
        method(student, teachers, None)
    # Best first: teacher 1 gets the high group, 2 the middle one, 0 the low one.
    method.group_mapping.set_order([1, 2, 0])
    other = build(mapping=[0, 2, 1])
    for made, known in zip(other.regressors, method.regressors, strict=True):
        made.weight.data = known.weight.data[:, : made.weight.shape[1]].clone()
    torch.testing.assert_close(method(student, teachers, None), other(student, teachers, None))


def test_gradient_reaches_groups_and_regressors_and_no_teacher() -> None:
    method, student, teachers = build(), student_output(), teacher_outputs()
    targets = [one.feature('last').requires_grad_() for one in teachers]
    loss = method(student, teachers, None)['loss_hint']
    leaves = (*student.features.values(), *method.regressors.parameters())
    assert min(largest(loss, *leaves)) > 0
    assert largest(loss, student.scores.logits, *targets) == [0.0] * 4


def test_step_of_a_distiller_moves_student_and_regressors(tmp_path: Path) -> None:
    layers = ['backbone.layer2', 'backbone.layer3']
    method = dict(type='GroupHints', student_groups=layers, teacher_taps=layers, mapping=[1, 0])
    model = tiny.distiller(tmp_path, methods=dict(hints=method))
    before, optimizer = tiny.weights_of(model), torch.optim.SGD(model.parameters(), lr=0.1)
    tiny.losses_of(model)['hints.loss_hint'].backward()
    optimizer.step()
    moved = {name for name, p in tiny.parameters_of(model) if not torch.equal(p, before[name])}
    assert {'student.backbone.layer1.0.conv1.weight', 'methods.hints.regressors.1.weight'} <= moved
    assert not any(name.startswith('student.head') for name in moved)


@pytest.mark.parametrize(
    ('taps', 'expected'),
    [('last', (('last',),) * 3), (['a', 'b', 'c'], (('a',), ('b',), ('c',)))],
)
def test_requests_are_the_groups_and_one_tap_of_each_teacher(taps: Any, expected: Any) -> None:
    method = GroupHints(['low', 'high'], taps)
    assert method.requests(3) == Requests(('low', 'high'), expected)


def test_one_group_needs_no_list() -> None:
    student, teachers = student_output(), teacher_outputs(count=1)
    one, other = GroupHints('high', 'last'), GroupHints(['high'], ['last'])
    losses = []
    for method in (one, other):
        torch.manual_seed(0)
        losses.append(built(method, student, teachers)(student, teachers, None))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize('key', ['student_groups', 'teacher_taps'])
def test_missing_taps_are_refused(key: str) -> None:
    with raises_config_error(key, (), 'is missing', fix='Name the taps'):
        GroupHints(**{**HINTS, key: ()})


@pytest.mark.parametrize(
    ('options', 'key', 'found', 'mentions'),
    [
        (dict(student_groups=['high']), 'student_groups', 1, 'each of 3 teachers'),
        (dict(student_groups='high'), 'student_groups', 1, 'each of 3 teachers'),
        (dict(teacher_taps=['last'] * 2), 'teacher_taps', ['last'] * 2, 'each of 3 teachers'),
        (dict(teacher_channels=[7, 7]), 'teacher_channels', [7, 7], 'each of 3 teachers'),
        (dict(teacher_channels=[7, 8, 7]), 'teacher_channels[1]', 8, 'must be 7'),
        (dict(mapping=[0, 0, 1]), 'mapping', [0, 0, 1], '3 different indices'),
    ],
)
def test_setting_that_does_not_fit_the_teachers_is_refused(
    options: dict[str, Any], key: str, found: Any, mentions: str
) -> None:
    with raises_config_error(key, found, mentions):
        build(**options)


@pytest.mark.parametrize(('mapping', 'refused'), [([0, 1], False), ([1, 0], True)])
def test_vector_beside_a_map_is_refused_where_the_mapping_can_pair_them(
    mapping: list[int], refused: bool
) -> None:
    student = output(low=torch.zeros(1, 4, 2, 2), flat=torch.zeros(1, 6))
    teachers = [output(last=torch.zeros(1, 7, 2, 2)), output(last=torch.zeros(1, 7))]
    method = GroupHints(['low', 'flat'], 'last', mapping=mapping)
    if not refused:
        built(method, student, teachers)
        return
    with raises_config_error('student_groups[1]', (1, 6), 'teachers[0]', '(1, 7, 2, 2)'):
        built(method, student, teachers)


def test_weight_zero_is_inactive_and_a_negative_one_is_refused() -> None:
    assert GroupHints(**HINTS).active
    assert not GroupHints(**HINTS, loss_weight=0.0).active
    with raises_config_error('loss_weight', -1, 'must be a number >= 0'):
        GroupHints(**HINTS, loss_weight=-1)
