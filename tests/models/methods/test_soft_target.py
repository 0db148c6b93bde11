from typing import Any

import pytest
import torch
from helpers.classification import knowledge
from torch.nn import functional as F

from mmkd_plugin.models.methods import SoftTarget


def test_hintons_formula_by_hand() -> None:
    # tau = 2: p = softmax(ln 9 / 2, 0) = (3/4, 1/4), q = (1/2, 1/2). KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.13081; times 4, weight 0.5.
    student, teacher = torch.zeros(1, 2), torch.tensor([[9.0, 1.0]]).log()
    losses = SoftTarget(temperature=2.0, loss_weight=0.5)(
        knowledge(student), [knowledge(teacher)], None
    )
    assert losses.keys() == {'loss_kd'}
    assert losses['loss_kd'].item() == pytest.approx(0.5 * 4 * 0.1308120, rel=1e-5)


@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric'])
def test_means_of_teachers(ensemble: str) -> None:
    student, one, other = torch.randn(3, 5, 6, dtype=torch.float64)
    probabilities = (one / 3).softmax(1), (other / 3).softmax(1)
    if ensemble == 'arithmetic':
        mean = (probabilities[0] + probabilities[1]) / 2
    else:  # the normalised geometric mean
        mean = (probabilities[0] * probabilities[1]).sqrt()
        mean = mean / mean.sum(dim=1, keepdim=True)
    expected = 9 * F.kl_div((student / 3).log_softmax(1), mean, reduction='batchmean')
    method = SoftTarget(temperature=3.0, ensemble=ensemble)
    torch.testing.assert_close(
        method(knowledge(student), [knowledge(one), knowledge(other)], None)['loss_kd'], expected
    )


def test_a_student_that_agrees_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    loss = SoftTarget()(knowledge(logits), [knowledge(logits.detach() + 3.0)], None)['loss_kd']
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_gradient_reaches_the_student_alone() -> None:
    student, teacher = torch.randn(2, 4, 5, requires_grad=True).unbind()
    student.retain_grad()
    teacher.retain_grad()
    SoftTarget()(knowledge(student), [knowledge(teacher)], None)['loss_kd'].backward()
    assert student.grad.abs().min() > 0
    assert teacher.grad is None


def test_half_precision_scores_give_a_loss_in_float32() -> None:
    student, teacher = torch.randn(2, 4, 5)
    losses = SoftTarget()(knowledge(student.bfloat16()), [knowledge(teacher.bfloat16())], None)
    assert losses['loss_kd'].dtype == torch.float32


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(temperature=0), 'temperature: expected a number > 0, got 0'),
        (dict(temperature=-1.0), 'temperature: expected a number > 0, got -1.0'),
        (dict(temperature=float('nan')), 'temperature: expected a number > 0, got nan'),
        (dict(temperature='4'), "temperature: expected a number > 0, got '4'"),
        (dict(loss_weight=-0.1), 'loss_weight: expected a number >= 0, got -0.1'),
        (dict(loss_weight=float('inf')), 'loss_weight: expected a number >= 0, got inf'),
        (
            dict(ensemble='harmonic'),
            "ensemble: expected one of 'arithmetic', 'geometric', got 'harmonic'",
        ),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f'^{message}$'):
        SoftTarget(**options)


def test_no_weight_takes_no_part() -> None:
    assert SoftTarget().active
    assert not SoftTarget(loss_weight=0.0).active
