"""DIST, DKD and NKD: targets, weightings, labels, detectors, refusals."""

from typing import Any

import pytest
import torch
from helpers.classification import built, output
from helpers.multi_teacher import (
    LABELS,
    gradients,
    largest,
    logits_of,
    student_output,
    teacher_outputs,
)
from torch import Tensor

from mmkd_plugin.models.losses import dist_loss, dkd_loss, nkd_loss, standardize_logits
from mmkd_plugin.models.methods import AMTMLKD, DIST, DKD, NKD, SoftTarget
from mmkd_plugin.outputs import ClassScores, NetworkOutput

LATENT, UNIFORM = dict(type='LatentTeacherWeighting'), dict(type='UniformTeacherWeighting')
METHODS = [DIST, DKD, NKD]
every_method = pytest.mark.parametrize('kind', METHODS)


def expected_loss(kind: type, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    if kind is DIST:
        return dist_loss(student, teacher, temperature)
    if kind is DKD:
        return dkd_loss(student, teacher, LABELS, temperature)
    return nkd_loss(student, teacher, LABELS, temperature)


def name_of(kind: type) -> str:
    return f'loss_{kind.__name__.lower()}'


def softmax_locations(logits: Tensor, **extra: Any) -> NetworkOutput:
    return NetworkOutput(ClassScores(logits, 'softmax', True, ((1, logits.shape[1], 1),), **extra))


@every_method
@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_loss_of_one_teacher_is_the_function(kind: Any, temperature: float) -> None:
    student, [teacher] = student_output(), teacher_outputs(count=1)
    found = kind(temperature, loss_weight=0.5)(student, [teacher], LABELS)
    assert found.keys() == {name_of(kind)}
    expected = 0.5 * expected_loss(kind, logits_of(student), logits_of(teacher), temperature)
    torch.testing.assert_close(found[name_of(kind)], expected)


@every_method
def test_loss_of_standardised_logits_is_the_function_of_them(kind: Any) -> None:
    student, [teacher] = student_output(), teacher_outputs(count=1)
    found = kind(2.0, standardize=True)(student, [teacher], LABELS)[name_of(kind)]
    pair = (standardize_logits(logits_of(one)) for one in (student, teacher))
    torch.testing.assert_close(found, expected_loss(kind, *pair, 2.0))


@every_method
@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric'])
def test_several_teachers_are_mixed_as_by_soft_target(kind: Any, ensemble: str) -> None:
    student, teachers = student_output(), teacher_outputs()
    found = kind(1.0, ensemble=ensemble)(student, teachers, LABELS)[name_of(kind)]
    logits = torch.stack([logits_of(one).double() for one in teachers])
    mean = logits.softmax(2).mean(0)
    if ensemble == 'geometric':
        mean = logits.softmax(2).log().mean(0).exp()
    expected = expected_loss(kind, logits_of(student).double(), mean.log(), 1.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@every_method
def test_uniform_weighting_equals_the_mean(kind: Any) -> None:
    student, teachers = student_output(), teacher_outputs()
    method = built(kind(2.0, weighting=UNIFORM, embedding_tap='high'), student, teachers)
    losses = method(student, teachers, LABELS)
    mean = kind(2.0)(student, teachers, LABELS)[name_of(kind)]
    torch.testing.assert_close(losses[name_of(kind)], mean)
    assert losses.keys() == {name_of(kind), 'weight_entropy'}


@pytest.mark.parametrize('kind', [DIST, DKD])
@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_loss_reaches_the_weighting_under_the_papers_objective_alone(
    kind: Any, objective: str
) -> None:
    student, teachers = student_output(), teacher_outputs()
    method = built(
        kind(2.0, weighting=LATENT, objective=objective, embedding_tap='high'), student, teachers
    )
    torch.manual_seed(0)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter)
    losses = method(student, teachers, LABELS)
    found = gradients(losses[name_of(kind)], *method.parameters())
    assert any(g.any() for g in found) == (objective == 'paper')
    assert ('loss_weighting' in losses) == (objective == 'label')


@pytest.mark.parametrize('soft_target', [dict(type='DIST'), dict(type='DKD', beta=2.0)])
def test_part_of_amtml_kd_equals_the_method_alone(soft_target: dict[str, Any]) -> None:
    student, teachers = student_output(), teacher_outputs()
    shared = dict(weighting=LATENT, embedding_tap='high')
    kind = {'DIST': DIST, 'DKD': DKD}[soft_target['type']]
    settings = {key: value for key, value in soft_target.items() if key != 'type'}
    both = []
    for method in (
        AMTMLKD(3.0, 0.5, 0.0, 0.0, **shared, standardize=True, soft_target=soft_target),
        kind(3.0, 0.5, **settings, **shared, standardize=True),
    ):
        torch.manual_seed(5)
        losses = built(method, student, teachers)(student, teachers, LABELS)
        both.append(next(iter(losses.values())))
    assert torch.equal(*both)
    assert min(largest(both[0], student.scores.logits)) > 0


def test_weights_of_images_weigh_the_targets_of_images() -> None:
    """The mixture of image i has the weights of image i."""
    student, teachers = student_output(), teacher_outputs(count=2)
    rule = dict(type='ConfidenceTeacherWeighting')
    part = dict(type='DKD', temperature=2.0)
    method = AMTMLKD(2.0, 1.0, 0.0, 0.0, weighting=rule, embedding_tap='high', soft_target=part)
    found = built(method, student, teachers)(student, teachers, LABELS)['loss_kd']
    logits = torch.stack([logits_of(one) for one in teachers], dim=1)
    weights = method.mixture.weighting(student.feature('high').amax((2, 3)), logits, LABELS)
    assert weights.std(dim=0).max() > 0.01
    mixed = (weights[:, :, None] * (logits / 2).softmax(2)).sum(1)
    expected = dkd_loss(logits_of(student), 2 * mixed.log(), LABELS, 2.0)
    torch.testing.assert_close(found, expected)


def test_standardised_amtml_kd_is_amtml_kd_of_standardised_logits() -> None:
    student, teachers = student_output(), teacher_outputs()
    scaled = [
        NetworkOutput(ClassScores.of_images(standardize_logits(logits_of(one))), one.features)
        for one in (student, *teachers)
    ]
    found = []
    for option, (own, *others) in ((True, (student, *teachers)), (False, scaled)):
        torch.manual_seed(5)
        method = AMTMLKD(2.0, hint_weight=0.0, embedding_tap='high', standardize=option)
        found.append(built(method, own, others)(own, others, LABELS))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('weighting', [None, UNIFORM])
def test_standardised_soft_target_is_soft_target_of_standardised_logits(weighting: Any) -> None:
    student, teachers = student_output(), teacher_outputs()
    settings = dict(weighting=weighting, embedding_tap='high', temperature=2.0)
    method = built(SoftTarget(**settings, standardize=True), student, teachers)
    found = method(student, teachers, None)['loss_kd']
    own = output(standardize_logits(logits_of(student)))
    others = [output(5.0 * standardize_logits(logits_of(one)) - 2.0) for one in teachers]
    torch.testing.assert_close(method(student, others, None)['loss_kd'], found)
    plain = [output(standardize_logits(logits_of(one))) for one in teachers]
    torch.testing.assert_close(found, SoftTarget(temperature=2.0)(own, plain, None)['loss_kd'])


@every_method
def test_rows_of_detectors_are_the_locations_that_teach(kind: Any) -> None:
    """The class that the teacher finds most probable, here the background, is the label."""
    own, other = torch.randn(2, 2, 5, 4)
    other[..., 3] += 1.0
    valid = torch.rand(2, 5) > 0.2
    locations = dict(weighting='uniform')
    method = kind(2.0, locations=locations)
    teacher = softmax_locations(other)
    found = method(softmax_locations(own, valid=valid), [teacher], None)[name_of(kind)]
    rows, targets = own[valid], other[valid]
    if kind is DIST:
        expected = dist_loss(rows, targets, 2.0)
    else:
        function = dkd_loss if kind is DKD else nkd_loss
        labels = targets.argmax(dim=1)
        assert (labels == 3).any()
        expected = function(rows, targets, labels, 2.0)
    torch.testing.assert_close(found, expected)


@every_method
def test_no_location_that_counts_gives_a_loss_of_zero_with_a_graph(kind: Any) -> None:
    own = torch.zeros(1, 4, 3, requires_grad=True)
    background = torch.tensor([-20.0, -20.0, 20.0]).expand(1, 4, 3)
    loss = kind()(softmax_locations(own), [softmax_locations(background)], None)[name_of(kind)]
    loss.backward()
    assert loss.item() == 0.0
    assert own.grad is not None and not own.grad.any()
