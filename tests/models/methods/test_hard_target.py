"""Hard targets: the class that teachers predict, its confidence, mixtures, locations, refusals."""

import math
from typing import Any

import pytest
import torch
from helpers.classification import built, output
from helpers.errors import raises_config_error
from helpers.multi_teacher import largest, logits_of, student_output, teacher_outputs
from torch import Tensor

from mmkd_plugin.models.losses import hard_target_loss
from mmkd_plugin.models.methods import AMTMLKD, HardTarget
from mmkd_plugin.outputs import ClassScores, NetworkOutput

UNIFORM = dict(type='UniformTeacherWeighting')


def by_loops(student: Tensor, probabilities: Tensor, least: float = 0.0) -> float:
    """Eq. 4 of FixMatch, image by image."""
    total = 0.0
    for own, target in zip(student.double().tolist(), probabilities.double().tolist(), strict=True):
        label = max(range(len(target)), key=target.__getitem__)
        if target[label] >= least:
            total -= own[label] - math.log(sum(math.exp(z) for z in own))
    return total / len(student)


@pytest.mark.parametrize('least', [0.0, 0.4, 0.6])
def test_loss_is_the_equation(least: float) -> None:
    student, teacher = torch.randn(2, 40, 5, dtype=torch.float64)
    found = hard_target_loss(student.requires_grad_(), teacher, least)
    confidence = teacher.softmax(1).amax(1)
    assert ((confidence > least) | (confidence < least)).all()
    assert found.item() == pytest.approx(by_loops(student.detach(), teacher.softmax(1), least))
    found.backward()
    assert torch.equal(student.grad.any(dim=1), confidence >= least)


def test_class_at_the_confidence_itself_counts() -> None:
    teacher = torch.tensor([[0.0, 0.0]])
    assert hard_target_loss(torch.zeros(1, 2), teacher, 0.5).item() == pytest.approx(math.log(2))
    assert hard_target_loss(torch.zeros(1, 2), teacher, 0.51) == 0


@pytest.mark.parametrize('least', [0.0, 0.5])
def test_nan_of_the_teacher_is_not_hidden_by_the_argmax(least: float) -> None:
    teacher = torch.tensor([[1.0, math.nan, 0.0], [1.0, 0.0, 0.0]])
    assert hard_target_loss(torch.zeros(2, 3), teacher, least).isnan()


@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric', 'weighted'])
def test_several_teachers_are_mixed_before_the_class_is_predicted(ensemble: str) -> None:
    """Two of three teachers prefer another class than their mean does."""
    probabilities = torch.tensor([[[0.5, 0.4, 0.1]], [[0.5, 0.4, 0.1]], [[0.0, 0.6, 0.4]]])
    probabilities = probabilities.clamp_min(1e-9)
    embedding = {'high': torch.randn(1, 4)}
    student = NetworkOutput(ClassScores.of_images(torch.randn(1, 3)), embedding)
    teachers = [output(one.log()) for one in probabilities]
    options: dict[str, Any] = dict(ensemble=ensemble)
    if ensemble == 'weighted':
        options = dict(weighting=UNIFORM, embedding_tap='high')
    method = built(HardTarget(0.5, **options), student, teachers)
    found = method(student, teachers, None)['loss_hard']
    mean = probabilities.mean(0)
    if ensemble == 'geometric':
        mean = probabilities.log().mean(0).exp()
    assert mean.argmax() == 1
    assert found.item() == pytest.approx(0.5 * by_loops(logits_of(student), mean), rel=1e-5)


def test_part_of_amtml_kd_has_the_class_of_the_mixture_at_temperature_one() -> None:
    student, teachers = student_output(), teacher_outputs()
    part = dict(type='HardTarget', min_confidence=0.35)
    method = AMTMLKD(9.0, 2.0, 0.0, 0.0, UNIFORM, embedding_tap='high', soft_target=part)
    found = built(method, student, teachers)(student, teachers, None)['loss_kd']
    mean = torch.stack([logits_of(one).softmax(1) for one in teachers]).mean(0)
    counted = mean.amax(1) >= 0.35
    assert counted.any() and not counted.all()
    assert found.item() == pytest.approx(2 * by_loops(logits_of(student), mean, 0.35), rel=1e-5)
    assert min(largest(found, student.scores.logits)) > 0


def test_location_of_a_detector_learns_the_class_or_the_background() -> None:
    own, other = torch.randn(2, 2, 6, 4)
    other[..., 3] += 1.0
    valid = torch.rand(2, 6) > 0.2
    grid = ((1, 6, 1),)
    teacher = NetworkOutput(ClassScores(other, 'softmax', True, grid))
    student = NetworkOutput(ClassScores(own, 'softmax', True, grid, valid=valid))
    method = HardTarget(locations=dict(weighting='uniform'))
    found = method(student, [teacher], None)['loss_hard']
    assert (other[valid].argmax(1) == 3).any()
    expected = by_loops(own[valid], other[valid].softmax(1))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('value', [-0.1, 1.0, True, 'high', math.nan])
def test_confidence_out_of_range_is_refused(value: Any) -> None:
    with raises_config_error('min_confidence', value):
        HardTarget(min_confidence=value)


def test_what_predicts_no_class_or_cannot_learn_is_refused() -> None:
    one = NetworkOutput(ClassScores.of_images(torch.zeros(1, 3), 'sigmoid'))
    with raises_config_error('type', 'HardTarget', 'predicts one class', fix="'SoftTarget'"):
        built(HardTarget(), one, [one])
    part = dict(type='HardTarget')
    with raises_config_error('standardize', True):
        AMTMLKD(hint_weight=0.0, standardize=True, soft_target=part)
    learned = dict(type='LatentTeacherWeighting')
    with raises_config_error('objective', 'paper', 'loss of HardTarget'):
        HardTarget(weighting=learned, objective='paper')
    with raises_config_error('objective', 'paper'):
        AMTMLKD(hint_weight=0.0, soft_target=part, objective='paper')
