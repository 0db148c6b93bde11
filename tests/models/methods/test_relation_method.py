from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.classification import built, output
from helpers.errors import raises_config_error

from mmkd_plugin.models.losses import angle_loss, cka_loss, distance_loss
from mmkd_plugin.models.methods import RelationMethod, Requests

STUDENT = output(neck=torch.randn(6, 4), map=torch.randn(6, 3, 2, 2), tokens=torch.randn(6, 5, 4))
TEACHERS = [
    output(neck=torch.randn(6, 7), last=torch.randn(6, 3)),
    output(neck=torch.randn(6, 2), last=torch.randn(6, 5, 4, 4)),
]
DISTANCE = dict(type='DistanceLoss')


def build(loss: Any = DISTANCE, tap: str = 'neck', **options: Any) -> RelationMethod:
    return built(RelationMethod(loss, tap, **options), STUDENT, TEACHERS)


@pytest.mark.parametrize(
    ('name', 'function'),
    [('DistanceLoss', distance_loss), ('AngleLoss', angle_loss), ('CKALoss', cka_loss)],
)
def test_loss_is_the_mean_over_teachers(name: str, function: Any) -> None:
    method = build(dict(type=name, loss_weight=3.0), loss_weight=2.0)
    parts = [function(STUDENT.feature('neck'), one.feature('neck')) for one in TEACHERS]
    expected = 6 * (parts[0] + parts[1]) / 2
    torch.testing.assert_close(method(STUDENT, TEACHERS, None), {'loss_relation': expected})
    assert not list(method.parameters())


def test_map_is_averaged_to_an_embedding() -> None:
    method = build(tap='map', teacher_tap=['neck', 'last'])
    own = STUDENT.feature('map').mean(dim=(2, 3))
    targets = TEACHERS[0].feature('neck'), TEACHERS[1].feature('last').mean(dim=(2, 3))
    expected = (distance_loss(own, targets[0]) + distance_loss(own, targets[1])) / 2
    torch.testing.assert_close(method(STUDENT, TEACHERS, None)['loss_relation'], expected)


@pytest.mark.parametrize(
    ('teacher_tap', 'expected'),
    [
        (None, (('neck',), ('neck',))),
        ('last', (('last',), ('last',))),
        (['neck', 'last'], (('neck',), ('last',))),
    ],
)
def test_requests_one_tap_of_every_network(teacher_tap: Any, expected: Any) -> None:
    assert build(teacher_tap=teacher_tap).requests(2) == Requests(('neck',), expected)


def test_gradient_reaches_the_student_alone() -> None:
    student = output(neck=STUDENT.feature('neck').clone().requires_grad_())
    teacher = output(neck=TEACHERS[0].feature('neck').clone().requires_grad_())
    RelationMethod(DISTANCE, 'neck')(student, [teacher], None)['loss_relation'].backward()
    assert student.feature('neck').grad.abs().sum() > 0
    assert teacher.feature('neck').grad is None


@pytest.mark.parametrize('tap', ['head', 'neck', 'backbone.layer3'])
def test_step_of_a_distiller_moves_the_student(tap: str, tmp_path: Path) -> None:
    method = dict(type='RelationMethod', loss=DISTANCE, tap=tap)
    model = tiny.distiller(tmp_path, methods=dict(rkd=method))
    before, optimizer = tiny.weights_of(model), torch.optim.SGD(model.parameters(), lr=0.1)
    loss = tiny.losses_of(model)['rkd.loss_relation']
    assert loss > 0
    loss.backward()
    optimizer.step()
    moved = {name for name, p in tiny.parameters_of(model) if not torch.equal(p, before[name])}
    assert 'student.backbone.layer1.0.conv1.weight' in moved
    assert ('student.head.fc.weight' in moved) is (tap == 'head')


def test_weight_zero_of_method_or_loss_makes_it_inactive() -> None:
    assert RelationMethod(DISTANCE, 'neck').active
    assert not RelationMethod(DISTANCE, 'neck', loss_weight=0.0).active
    assert not RelationMethod(dict(DISTANCE, loss_weight=0), 'neck').active
    with raises_config_error('loss_weight', -1, 'must be a number >= 0'):
        RelationMethod(DISTANCE, 'neck', loss_weight=-1)


@pytest.mark.parametrize(
    ('loss', 'key', 'found', 'fix'),
    [
        (None, 'loss', None, 'dict(type='),
        (dict(type='DistancLoss'), 'loss.type', 'DistancLoss', "'DistanceLoss'"),
        (dict(type='HintLoss'), 'loss.type', 'HintLoss', 'use FeatureMethod'),
        (dict(type='AttentionTransferLoss'), 'loss.type', 'AttentionTransferLoss', 'FeatureMethod'),
        (dict(type='HintRegressor'), 'loss.type', 'HintRegressor', '@loss_module'),
        (dict(DISTANCE, power=2), 'loss.power', 2, 'delta'),
        (dict(DISTANCE, delta=0), 'loss.delta', 0, None),
    ],
)
def test_loss_that_cannot_be_used_is_refused(loss: Any, key: str, found: Any, fix: str) -> None:
    with raises_config_error(key, found, fix=fix):
        RelationMethod(loss, 'neck')


def test_tap_without_an_embedding_is_refused() -> None:
    with raises_config_error('tap', (6, 5, 4), 'features (N, C)'):
        build(tap='tokens', teacher_tap='neck')
    teachers = [output(neck=torch.randn(6, 5, 7)), TEACHERS[1]]
    with raises_config_error('teacher_tap', (6, 5, 7), 'features (N, C)'):
        built(RelationMethod(DISTANCE, 'neck'), STUDENT, teachers)


@pytest.mark.parametrize('taps', [['neck'], ['neck', 'last', 'last'], []])
def test_taps_of_another_number_of_teachers_are_refused(taps: list[str]) -> None:
    with raises_config_error('teacher_tap', taps, 'one for each of 2 teachers'):
        RelationMethod(DISTANCE, 'neck', teacher_tap=taps).requests(2)
