"""The parts of AMTML-KD that work alone equal AMTML-KD with the other weights 0, bit for bit."""

from typing import Any

import pytest
import torch
from helpers.classification import built
from helpers.multi_teacher import (
    CLASSES,
    DIMS,
    HINTS,
    IMAGES,
    LABELS,
    gradients,
    logits_of,
    student_output,
    teacher_outputs,
    total,
)
from torch import Tensor

from mmkd_plugin.models.losses import angle_loss
from mmkd_plugin.models.methods import AMTMLKD, AngleTransfer, GroupHints, Method, SoftTarget
from mmkd_plugin.outputs import ClassScores, NetworkOutput

LATENT, UNIFORM = dict(type='LatentTeacherWeighting'), dict(type='UniformTeacherWeighting')
Outputs = tuple[NetworkOutput, list[NetworkOutput], Tensor]


def classifier_outputs() -> Outputs:
    return student_output(), teacher_outputs(), LABELS


def detector_outputs() -> Outputs:
    """Scores of 20 locations an image, a sigmoid each; labels are the classes in the image."""

    def scores(gradient: bool) -> ClassScores:
        logits = torch.randn(IMAGES, 20, CLASSES).requires_grad_(gradient)
        return ClassScores(logits, 'sigmoid', levels=((4, 5, 1),))

    student = NetworkOutput(scores(True), student_output().features)
    teachers = [NetworkOutput(scores(False), one.features) for one in teacher_outputs()]
    return student, teachers, (torch.rand(IMAGES, CLASSES) > 0.5).float()


def seeded(method: Method, student: NetworkOutput, teachers: list[NetworkOutput]) -> Any:
    torch.manual_seed(7)
    return built(method, student, teachers)


def require_equal(one: Method, other: Method, outputs: Outputs) -> dict[str, Tensor]:
    """Losses, metrics and gradients of both are the same bits; return the losses of the first."""
    student, teachers, labels = outputs
    methods = [seeded(method, student, teachers) for method in (one, other)]
    losses = [method(student, teachers, labels) for method in methods]
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name]), name
    both = []
    for method, found in zip(methods, losses, strict=True):
        leaves = [student.scores.logits, *student.features.values(), *method.parameters()]
        both.append(gradients(total(found), *leaves))
    assert len(both[0]) == len(both[1])
    assert all(map(torch.equal, *both))
    assert any(gradient.any() for gradient in both[0])
    return losses[0]


@pytest.mark.parametrize('make', [classifier_outputs, detector_outputs])
@pytest.mark.parametrize('objective', ['paper', 'label'])
@pytest.mark.parametrize('weighting', [LATENT, UNIFORM])
def test_soft_target_with_a_weighting_equals_the_divergence(
    make: Any, objective: str, weighting: dict[str, Any]
) -> None:
    shared = dict(temperature=3.0, weighting=weighting, objective=objective, embedding_tap='high')
    whole = AMTMLKD(**shared, kd_weight=0.5, angle_weight=0.0, hint_weight=0.0)
    losses = require_equal(SoftTarget(**shared, loss_weight=0.5), whole, make())
    learns = weighting is LATENT and objective == 'label'
    expected = {'loss_kd', 'weight_entropy', *(['loss_weighting'] if learns else [])}
    assert losses.keys() == expected


@pytest.mark.parametrize('make', [classifier_outputs, detector_outputs])
@pytest.mark.parametrize('weighting', [LATENT, UNIFORM])
def test_angle_transfer_equals_the_angle_loss(make: Any, weighting: dict[str, Any]) -> None:
    shared = dict(weighting=weighting, objective='label', embedding_tap='high')
    options = dict(kd_weight=0.0, angle_weight=0.5, hint_weight=0.0, angle_locations=9)
    part = AngleTransfer(**shared, loss_weight=0.5, num_locations=9)
    losses = require_equal(part, AMTMLKD(**shared, **options), make())
    assert losses.keys() - {'loss_weighting'} == {'loss_angle', 'weight_entropy'}
    assert ('loss_weighting' in losses) is (weighting is LATENT)


@pytest.mark.parametrize('mapping', [[2, 0, 1], 'random'])
def test_group_hints_equal_the_hints(mapping: Any) -> None:
    options = {**HINTS, 'mapping': mapping, 'seed': 3}
    whole = AMTMLKD(kd_weight=0.0, angle_weight=0.0, hint_weight=0.5, **options)
    losses = require_equal(GroupHints(**options, loss_weight=0.5), whole, classifier_outputs())
    assert losses.keys() == {'loss_hint'}


@pytest.mark.parametrize('make', [classifier_outputs, detector_outputs])
def test_parts_with_one_weighting_add_up_to_the_whole(make: Any) -> None:
    """Alone each part has its own weighting; with one state they give the losses of the whole."""
    student, teachers, labels = make()
    shared = dict(temperature=5.0, weighting=LATENT, objective='label', embedding_tap='high')
    whole = seeded(AMTMLKD(**shared, **HINTS), student, teachers)
    soft, angle, hints = (
        seeded(part, student, teachers)
        for part in (SoftTarget(**shared), AngleTransfer(**shared), GroupHints(**HINTS))
    )
    soft.mixture.load_state_dict(whole.mixture.state_dict())
    angle.mixture.load_state_dict(whole.mixture.state_dict())
    hints.load_state_dict(whole.hints.state_dict())
    losses = whole(student, teachers, labels)
    parts: dict[str, Tensor] = {}
    for part in (soft, angle, hints):
        parts.update(part(student, teachers, labels))
    assert parts.keys() == losses.keys()
    assert all(torch.equal(parts[name], value) for name, value in losses.items())


def test_angle_transfer_alone_is_that_of_the_mean_of_the_teachers() -> None:
    """By hand: temperature 5, weights 1/3 each, and an embedding that has no influence."""
    student, teachers, _ = classifier_outputs()
    method = built(AngleTransfer(embedding_tap='high'), student, teachers)
    losses = method(student, teachers, None)
    softened = [(logits_of(one) / 5).softmax(dim=1) for one in (student, *teachers)]
    mean = torch.stack(softened[1:]).mean(dim=0)
    torch.testing.assert_close(losses['loss_angle'], angle_loss(softened[0], mean))
    assert losses['weight_entropy'].item() == pytest.approx(1.0)
    assert not list(method.parameters())
    assert student.feature('high').shape == (IMAGES, DIMS, 4, 4)
