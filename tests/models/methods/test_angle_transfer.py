from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers.classification import built
from helpers.errors import raises_config_error
from helpers.multi_teacher import LABELS, largest, student_output, teacher_outputs

from mmkd_plugin.models.methods import AngleTransfer, Requests
from mmkd_plugin.outputs import ClassScores, NetworkOutput

LATENT = dict(type='LatentTeacherWeighting')


def build(**options: Any) -> AngleTransfer:
    method = AngleTransfer(embedding_tap='high', **options)
    return built(method, student_output(1), teacher_outputs(1))


def test_gradient_of_the_angles_reaches_the_student_and_that_of_labels_the_weighting() -> None:
    method, student, teachers = build(weighting=LATENT), student_output(), teacher_outputs()
    for one in teachers:
        one.scores.logits.requires_grad_()
    losses = method(student, teachers, LABELS)
    logits, latent = student.scores.logits, list(method.parameters())
    assert largest(losses['loss_angle'], logits)[0] > 0
    assert largest(losses['loss_angle'], *latent) == [0.0, 0.0]
    assert min(largest(losses['loss_weighting'], *latent)) > 0
    for name in ('loss_angle', 'loss_weighting'):
        assert largest(losses[name], *(one.scores.logits for one in teachers)) == [0.0] * 3


def test_weighting_that_learns_with_the_objective_paper_is_refused() -> None:
    """The angle loss detaches the mixture, so nothing would train the weighting."""
    fix = "Set objective='label', or use AMTMLKD"
    with raises_config_error('objective', 'paper', 'no gradient', fix=fix):
        AngleTransfer(weighting=LATENT, objective='paper')
    for weighting in (None, dict(type='UniformTeacherWeighting')):
        assert AngleTransfer(weighting=weighting, objective='paper').active


def test_run_with_such_a_weighting_is_refused_when_it_is_built(tmp_path: Path) -> None:
    method = dict(type='AngleTransfer', weighting=LATENT, objective='paper')
    with raises_config_error('methods.angle.objective', 'paper'):
        tiny.distiller(tmp_path, methods=dict(angle=method))


@pytest.mark.parametrize('weighting', [None, LATENT])
def test_step_of_a_distiller_moves_student_and_weighting(weighting: Any, tmp_path: Path) -> None:
    method = dict(type='AngleTransfer', weighting=weighting)
    model = tiny.distiller(tmp_path, methods=dict(angle=method))
    before, optimizer = tiny.weights_of(model), torch.optim.SGD(model.parameters(), lr=0.1)
    losses = tiny.losses_of(model)
    names = {name for name in losses if name.startswith('angle.loss')}
    assert names == {'angle.loss_angle', *(['angle.loss_weighting'] if weighting else [])}
    sum(losses[name] for name in names).backward()
    optimizer.step()
    moved = {name for name, p in tiny.parameters_of(model) if not torch.equal(p, before[name])}
    assert 'student.head.fc.weight' in moved
    assert any(name.startswith('methods.angle.mixture') for name in moved) is bool(weighting)


def test_requests_are_scores_an_embedding_and_labels_where_they_are_needed() -> None:
    expected = Requests(('high',), ((), ()), scores=True, labels=True, read_only=('high',))
    assert AngleTransfer(embedding_tap='high').requests(2) == expected
    assert AngleTransfer(weighting=LATENT).requests(2).needs_labels


def test_gather_is_refused_for_detectors() -> None:
    scores = ClassScores(torch.zeros(1, 4, 3), 'sigmoid', levels=((2, 2, 1),))
    student = NetworkOutput(scores, {'high': torch.zeros(1, 8)})
    with raises_config_error('gather', True, 'must be False for detectors'):
        built(AngleTransfer(embedding_tap='high', gather=True), student, [NetworkOutput(scores)])
    assert build(gather=True).gather, 'classifiers may gather'


@pytest.mark.parametrize(
    ('options', 'key', 'found'),
    [
        (dict(temperature=0), 'temperature', 0),
        (dict(loss_weight=-1), 'loss_weight', -1),
        (dict(num_locations=0), 'num_locations', 0),
        (dict(objective='labels'), 'objective', 'labels'),
        (dict(weighting=dict(type='NoRule')), 'weighting.type', 'NoRule'),
        (dict(locations=dict(power=1)), 'locations.power', 1),
    ],
)
def test_setting_out_of_range_is_refused(options: dict[str, Any], key: str, found: Any) -> None:
    with raises_config_error(key, found):
        AngleTransfer(**options)


def test_weight_zero_is_inactive() -> None:
    assert AngleTransfer().active
    assert not AngleTransfer(loss_weight=0.0).active
