from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.classification import built, output
from helpers.errors import raises_config_error

from mmkd_plugin.models.losses import angle_loss, distance_loss, relation_distance_loss
from mmkd_plugin.models.methods import RKD, Requests
from mmkd_plugin.outputs import ClassScores, NetworkOutput

STUDENT = output(torch.randn(6, 5), neck=torch.randn(6, 4), tokens=torch.randn(6, 5, 4))
TEACHERS = [
    output(torch.randn(6, 5), neck=torch.randn(6, 7), last=torch.randn(6, 3)),
    output(torch.randn(6, 5), neck=torch.randn(6, 2), last=torch.randn(6, 5, 4, 4)),
]


def distances(rows: list[list[float]]) -> dict[tuple[int, int], float]:
    found = {}
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j:
                found[i, j] = sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
    mean = sum(found.values()) / len(found)
    return {pair: distance / mean for pair, distance in found.items()}


def test_relation_distance_loss_equals_a_loop_in_float64() -> None:
    student, teacher = torch.randn(5, 3).double(), 9 * torch.randn(5, 8).double()
    own, other = distances(student.tolist()), distances(teacher.tolist())
    total = 0.0
    for pair, distance in own.items():
        difference = abs(distance - other[pair])
        total += 0.5 * difference**2 if difference < 1 else difference - 0.5
    assert relation_distance_loss(student, teacher).item() == pytest.approx(total / 20, rel=1e-10)


@pytest.mark.parametrize('taps', [('neck', 'neck', 'neck'), ('neck', 'last', 'neck'), (None,) * 3])
def test_losses_are_the_means_over_teachers(taps: tuple[Any, Any, Any]) -> None:
    own, *others = taps
    method = built(RKD(2.0, 3.0, own, None if own is None else others), STUDENT, TEACHERS)
    found = method(STUDENT, TEACHERS, None)
    rows = [
        one.scores.logits[:, 0] if tap is None else one.feature(tap)
        for one, tap in zip([STUDENT, *TEACHERS], taps, strict=True)
    ]
    expected = {
        'loss_distance': 2 * sum(distance_loss(rows[0], one) for one in rows[1:]) / 2,
        'loss_angle': 3 * sum(angle_loss(rows[0], one) for one in rows[1:]) / 2,
    }
    torch.testing.assert_close(found, expected)


def test_map_is_averaged_to_an_embedding() -> None:
    teacher = TEACHERS[1]
    method = built(RKD(tap='neck', teacher_tap='last'), STUDENT, [teacher])
    pooled = output(last=teacher.feature('last').mean(dim=(2, 3)))
    torch.testing.assert_close(method(STUDENT, [teacher], None), method(STUDENT, [pooled], None))


def test_default_weights_are_those_of_the_paper() -> None:
    assert RKD().loss_weights == dict(distance_weight=25.0, angle_weight=50.0)
    assert not RKD(0.0, 0.0).active


@pytest.mark.parametrize(('weights', 'name'), [((1.0, 0.0), 'distance'), ((0.0, 1.0), 'angle')])
def test_part_of_weight_zero_is_not_computed(weights: tuple[float, float], name: str) -> None:
    assert RKD(*weights)(STUDENT, TEACHERS, None).keys() == {f'loss_{name}'}


def test_requests_are_taps_or_scores() -> None:
    assert RKD().requests(2) == Requests(teachers=((), ()), scores=True)
    assert RKD(tap='neck').requests(2) == Requests(('neck',), (('neck',), ('neck',)))
    expected = Requests(('neck',), (('neck',), ('last',)))
    assert RKD(tap='neck', teacher_tap=['neck', 'last']).requests(2) == expected


def test_setting_that_cannot_be_used_is_refused() -> None:
    with raises_config_error('distance_weight', -1.0):
        RKD(-1.0)
    with raises_config_error('tap', None):
        RKD(teacher_tap='neck')
    with raises_config_error('teacher_tap', ['neck']):
        RKD(tap='neck', teacher_tap=['neck']).requests(2)
    with raises_config_error('tap', (6, 5, 4)):
        built(RKD(tap='tokens', teacher_tap='neck'), STUDENT, TEACHERS)
    dense = NetworkOutput(ClassScores(torch.zeros(1, 9, 4), 'sigmoid', False, ((3, 3, 1),)))
    with raises_config_error('tap', None, fix='backbone'):
        built(RKD(), dense, [dense])


@pytest.mark.parametrize('tap', [None, 'neck'])
@pytest.mark.parametrize('images', [1, 2])
def test_small_batch_is_zero_and_logged_once(
    images: int, tap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        'mmkd_plugin.models.methods.rkd.print_log', lambda text, **_: logged.append(text)
    )
    methods = dict(m=dict(type='RKD', tap=tap))
    model = tiny.distiller(tmp_path, methods=methods, task_weight=0.0).train()
    for _ in range(2):
        losses = tiny.losses_of(model, tiny.batch_of(images))
        parts = losses['m.loss_distance'], losses['m.loss_angle']
        assert [part.item() for part in parts] == pytest.approx([0, 0], abs=1e-6)
        (parts[0] + parts[1]).backward()
        assert all(
            p.grad.isfinite().all() for p in model.student.parameters() if p.grad is not None
        )
    assert len(logged) == 1 and f'batch of {images}' in logged[0]
    losses = tiny.losses_of(model)
    assert losses['m.loss_distance'] > 0 and losses['m.loss_angle'] > 0
