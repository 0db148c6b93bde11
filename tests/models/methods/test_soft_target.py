from typing import Any

import pytest
import torch
from helpers.classification import built, output
from helpers.errors import raises_config_error
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.methods import Requests, SoftTarget
from mmkd_plugin.outputs import ClassScores, NetworkOutput


def dense(logits: Tensor, activation: str = 'sigmoid', **extra: Any) -> NetworkOutput:
    levels = ((1, logits.shape[1], 1),)
    background = activation == 'softmax'
    return NetworkOutput(ClassScores(logits, activation, background, levels, **extra))


def test_loss_equals_the_value_by_hand() -> None:
    # tau = 2: p = softmax(ln 9 / 2, 0) = (3/4, 1/4), q = (1/2, 1/2). KL = 3/4 ln(3/2) + 1/4 ln(1/2)
    # = 0.13081; times 4, weight 0.5.
    student, teacher = torch.zeros(1, 2), torch.tensor([[9.0, 1.0]]).log()
    method = SoftTarget(temperature=2.0, loss_weight=0.5)
    losses = method(output(student), [output(teacher)], None)
    assert losses.keys() == {'loss_kd'}
    assert losses['loss_kd'].item() == pytest.approx(0.5 * 4 * 0.1308120, rel=1e-5)


@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric'])
def test_ensemble_is_the_mean_of_the_teachers(ensemble: str) -> None:
    student, one, other = torch.randn(3, 5, 6, dtype=torch.float64)
    probabilities = (one / 3).softmax(1), (other / 3).softmax(1)
    if ensemble == 'arithmetic':
        mean = (probabilities[0] + probabilities[1]) / 2
    else:  # the normalised geometric mean
        mean = (probabilities[0] * probabilities[1]).sqrt()
        mean = mean / mean.sum(dim=1, keepdim=True)
    expected = 9 * F.kl_div((student / 3).log_softmax(1), mean, reduction='batchmean')
    method = SoftTarget(temperature=3.0, ensemble=ensemble)
    loss = method(output(student), [output(one), output(other)], None)['loss_kd']
    torch.testing.assert_close(loss, expected)


def test_equal_outputs_have_no_loss_and_no_gradient() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    loss = SoftTarget()(output(logits), [output(logits.detach() + 3.0)], None)['loss_kd']
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('make', [output, lambda x: dense(x.unsqueeze(0))])
def test_gradient_reaches_the_student_alone_and_the_loss_is_in_float32(
    make: Any, dtype: torch.dtype
) -> None:
    student, teacher = (torch.randn(4, 5).to(dtype).requires_grad_() for _ in range(2))
    loss = SoftTarget()(make(student), [make(teacher)], None)['loss_kd']
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad.abs().min() > 0
    assert teacher.grad is None


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric'])
def test_loss_of_locations_equals_a_loop_in_float64(activation: str, ensemble: str) -> None:
    temperature, shape = 2.0, (2, 5, 3)
    own, *others = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    valid = torch.rand(shape[:2]) > 0.3
    method = SoftTarget(
        temperature, loss_weight=0.5, ensemble=ensemble, locations=dict(background=0.4)
    )
    teachers = [dense(one, activation) for one in others]
    loss = method(dense(own, activation, valid=valid), teachers, None)['loss_kd']

    def squash(z: Tensor) -> Tensor:
        return z.sigmoid() if activation == 'sigmoid' else z.softmax(dim=-1)

    total = weight_sum = 0.0
    for n in range(2):
        for a in range(5):
            columns = slice(None) if activation == 'sigmoid' else slice(0, 2)
            m = max(float(squash(t[n, a])[columns].max()) for t in others)
            w = m * (m >= 0.4) * float(valid[n, a])
            softened = [t[n, a] / temperature for t in others]
            p = squash(sum(softened) / 2)
            if ensemble == 'arithmetic':
                p = sum(squash(z) for z in softened) / 2
            q = squash(own[n, a] / temperature)
            kl = (p * (p / q).log()).sum()
            if activation == 'sigmoid':
                kl = kl + ((1 - p) * ((1 - p) / (1 - q)).log()).sum()
            total, weight_sum = total + w * float(kl), weight_sum + w
    assert weight_sum > 0
    assert loss.item() == pytest.approx(0.5 * temperature**2 * total / weight_sum, rel=1e-5)


def test_no_location_that_counts_gives_a_loss_of_zero_with_a_graph() -> None:
    own = torch.zeros(1, 4, 2, requires_grad=True)
    loss = SoftTarget()(dense(own), [dense(torch.full((1, 4, 2), -9.0))], None)['loss_kd']
    loss.backward()
    assert loss.item() == 0.0
    assert own.grad is not None and not own.grad.any()


def test_requests_are_scores_alone_and_with_a_weighting_an_embedding() -> None:
    assert SoftTarget().requests(2) == Requests(teachers=((), ()), scores=True)
    rule = dict(type='LatentTeacherWeighting')
    weighted = SoftTarget(weighting=rule, objective='paper', embedding_tap='neck')
    expected = Requests(('neck',), ((), ()), scores=True, labels=True, read_only=('neck',))
    assert weighted.requests(2) == expected


@pytest.mark.parametrize(
    ('weighting', 'objective', 'needed'),
    [
        ('LatentTeacherWeighting', 'paper', False),
        ('LatentTeacherWeighting', 'label', True),
        ('UniformTeacherWeighting', 'label', False),
        ('ConfidenceTeacherWeighting', 'paper', True),
    ],
)
def test_labels_are_needed_by_rules_and_objectives_that_use_them(
    weighting: str, objective: str, needed: bool
) -> None:
    method = SoftTarget(weighting=dict(type=weighting), objective=objective)
    assert method.requests(2).needs_labels is needed


def test_uniform_weighting_equals_the_arithmetic_mean() -> None:
    student = output(torch.randn(6, 5), neck=torch.randn(6, 8, 4, 4))
    teachers = [output(torch.randn(6, 5)) for _ in range(3)]
    rule = dict(type='UniformTeacherWeighting')
    uniform = SoftTarget(temperature=3.0, weighting=rule, embedding_tap='neck')
    losses = built(uniform, student, teachers)(student, teachers, None)
    mean = SoftTarget(temperature=3.0)(student, teachers, None)['loss_kd']
    torch.testing.assert_close(losses['loss_kd'], mean, rtol=1e-6, atol=1e-6)
    assert losses.keys() == {'loss_kd', 'weight_entropy'}
    assert losses['weight_entropy'].item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ('options', 'key', 'found'),
    [
        (dict(temperature=0), 'temperature', 0),
        (dict(temperature=-1.0), 'temperature', -1.0),
        (dict(temperature=float('nan')), 'temperature', float('nan')),
        (dict(temperature='4'), 'temperature', '4'),
        (dict(loss_weight=-0.1), 'loss_weight', -0.1),
        (dict(loss_weight=float('inf')), 'loss_weight', float('inf')),
        (dict(ensemble='harmonic'), 'ensemble', 'harmonic'),
        (dict(objective='labels'), 'objective', 'labels'),
        (dict(weighting=dict(type='NoRule')), 'weighting.type', 'NoRule'),
        (dict(weighting=dict(type='HintLoss')), 'weighting.type', 'HintLoss'),
        (dict(locations=dict(weighting='all')), 'locations.weighting', 'all'),
    ],
)
def test_setting_out_of_range_is_refused(options: dict[str, Any], key: str, found: Any) -> None:
    with raises_config_error(key, found):
        SoftTarget(**options)


def test_geometric_ensemble_beside_a_weighting_is_refused() -> None:
    weighting = dict(type='UniformTeacherWeighting')
    with raises_config_error('ensemble', 'geometric', "must be 'arithmetic' beside a weighting"):
        SoftTarget(ensemble='geometric', weighting=weighting)


def test_weight_zero_is_inactive() -> None:
    assert SoftTarget().active
    assert not SoftTarget(loss_weight=0.0).active
    assert not SoftTarget(loss_weight=0.0, weighting=dict(type='LatentTeacherWeighting')).active
