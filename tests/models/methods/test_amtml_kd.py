"""AMTML-KD on tensors: its equations, where gradients go, and settings that do not fit."""

from typing import Any

import pytest
import torch
from helpers.classification import built, output
from helpers.errors import raises_config_error
from helpers.multi_teacher import (
    CLASSES,
    DIMS,
    HINTS,
    IMAGES,
    LABELS,
    TEACHERS,
    largest,
    logits_of,
    student_output,
    teacher_outputs,
    total,
)
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses import angle_loss
from mmkd_plugin.models.methods import AMTMLKD, Requests, SoftTarget
from mmkd_plugin.outputs import ClassScores, NetworkOutput

UNIFORM = dict(type='UniformTeacherWeighting')


def make(**options: Any) -> AMTMLKD:
    """By default the KL term alone, which trains the weighting."""
    defaults = dict(objective='paper', embedding_tap='high', hint_weight=0.0, angle_weight=0.0)
    return AMTMLKD(**{**defaults, **options})


def build(count: int = TEACHERS, **options: Any) -> AMTMLKD:
    return built(make(**options), student_output(1), teacher_outputs(1, count))


def latent(method: AMTMLKD) -> tuple[Tensor, Tensor]:
    weighting = method.mixture.weighting
    return weighting.factors, weighting.direction


def mixture_of(
    method: AMTMLKD, student: NetworkOutput, teachers: list[NetworkOutput], temperature: float = 5.0
) -> Tensor:
    """Equations 5 to 7, image by image."""
    factors, direction = latent(method)
    rows = []
    for i, feature in enumerate(student.feature('high')):
        embedding = feature.amax(dim=(1, 2))
        scores = torch.stack([(direction * theta * embedding).sum() for theta in factors])
        softened = [(logits_of(one)[i] / temperature).softmax(0) for one in teachers]
        rows.append(sum(w * p for w, p in zip(scores.softmax(dim=0), softened, strict=True)))
    return torch.stack(rows)


def test_all_parts_equal_the_equations() -> None:
    weights = dict(kd_weight=0.5, angle_weight=2.0, hint_weight=3.0)
    method = build(**weights, temperature=4.0, **HINTS)
    student, teachers = student_output(), teacher_outputs()
    losses = method(student, teachers, LABELS)
    assert losses.keys() == {'loss_kd', 'loss_angle', 'loss_hint', 'weight_entropy'}
    mixture = mixture_of(method, student, teachers, temperature=4.0)
    softened = (logits_of(student) / 4).softmax(dim=1)
    kl = (mixture * (mixture.log() - softened.log())).sum(dim=1).mean()
    torch.testing.assert_close(losses['loss_kd'], 0.5 * 16 * kl)
    torch.testing.assert_close(losses['loss_angle'], 2 * angle_loss(softened, mixture))
    hints = []
    for teacher, regressor, group in zip(
        teachers, method.hints.regressors, ('high', 'low', 'middle'), strict=True
    ):
        source = F.adaptive_avg_pool2d(student.feature(group), 4)
        regressed = torch.einsum('oc,nchw->nohw', regressor.weight, source)
        regressed = regressed + regressor.bias[:, None, None]
        hints.append((regressed - teacher.feature('last')).square().mean())
    torch.testing.assert_close(losses['loss_hint'], 3 * sum(hints))


@pytest.mark.parametrize('shape', [(IMAGES, DIMS, 1, 1), (IMAGES, DIMS)])
def test_flat_embedding_is_used_as_it_is(shape: tuple[int, ...]) -> None:
    method, student, teachers = build(), student_output(), teacher_outputs()
    embedding = torch.randn(shape)
    maps = dict(student.features, high=embedding.reshape(IMAGES, DIMS, 1, 1).expand(-1, -1, 4, 4))
    flat = dict(student.features, high=embedding)
    expected, found = (
        method(NetworkOutput(student.scores, features), teachers, None)['loss_kd']
        for features in (maps, flat)
    )
    torch.testing.assert_close(found, expected)


def test_uniform_weighting_gives_the_soft_target_of_the_mean() -> None:
    method = build(weighting=UNIFORM, temperature=3.0)
    student, teachers = student_output(), teacher_outputs()
    expected = SoftTarget(temperature=3.0)(student, teachers, None)['loss_kd']
    torch.testing.assert_close(method(student, teachers, None)['loss_kd'], expected)


def test_objective_paper_sends_the_gradient_of_the_divergence_to_the_weighting() -> None:
    method, student, teachers = build(angle_weight=1.0), student_output(), teacher_outputs()
    losses = method(student, teachers, LABELS)
    logits = student.scores.logits
    assert 'loss_weighting' not in losses
    leaves = (*latent(method), logits, student.feature('high'))
    assert min(largest(losses['loss_kd'], *leaves)) > 1e-6
    assert largest(losses['loss_angle'], *latent(method)) == [0.0, 0.0]
    assert largest(losses['loss_angle'], logits)[0] > 0


def test_objective_label_sends_the_gradient_of_the_cross_entropy_alone_to_the_weighting() -> None:
    method = build(objective='label', angle_weight=1.0)
    student, teachers = student_output(), teacher_outputs()
    losses = method(student, teachers, LABELS)
    logits = student.scores.logits
    assert min(largest(losses['loss_weighting'], *latent(method))) > 1e-6
    assert largest(losses['loss_weighting'], logits) == [0.0]
    for loss in (losses['loss_kd'], losses['loss_angle']):
        leaves = (*latent(method), student.feature('high'))
        assert largest(loss, *leaves) == [0.0] * 3, 'the student receives the mixture detached'
        assert largest(loss, logits)[0] > 0
    expected = F.nll_loss(mixture_of(method, student, teachers).log(), LABELS)
    torch.testing.assert_close(losses['loss_weighting'], expected)


def test_objective_label_takes_mixed_labels() -> None:
    method = build(objective='label')
    student, teachers = student_output(), teacher_outputs()
    one_hot = F.one_hot(LABELS, CLASSES).float()
    mixed = 0.3 * one_hot + 0.7 * one_hot.roll(1, dims=0)
    hard, soft, found = (
        method(student, teachers, labels)['loss_weighting'] for labels in (LABELS, one_hot, mixed)
    )
    torch.testing.assert_close(soft, hard)
    log_mixture = mixture_of(method, student, teachers).log()
    torch.testing.assert_close(found, -(mixed * log_mixture).sum(dim=1).mean())


def test_batch_without_labels_is_an_error_for_the_objective_label_alone() -> None:
    assert build()(student_output(), teacher_outputs(), None)['loss_kd'].isfinite()
    method = build(objective='label')
    with raises_config_error('objective', 'label', 'needs labels'):
        method(student_output(), teacher_outputs(), None)


@pytest.mark.parametrize(
    ('options', 'needed'),
    [
        (dict(), False),
        (dict(objective='label'), True),
        (dict(objective='label', weighting=UNIFORM), False),
        (dict(weighting=dict(type='ConfidenceTeacherWeighting')), True),
    ],
)
def test_labels_are_needed_by_rules_and_objectives_that_use_them(
    options: dict[str, Any], needed: bool
) -> None:
    assert make(**options).requests(TEACHERS).needs_labels is needed


def test_angle_loss_alone_keeps_the_weighting_in_the_graph() -> None:
    """A parameter that leaves the graph would stop DDP."""
    method = build(kd_weight=0.0, angle_weight=1.0)
    losses = method(student_output(), teacher_outputs(), None)
    assert losses['loss_weighting'] == 0
    total(losses).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize(
    ('options', 'modules', 'expected'),
    [
        (
            dict(kd_weight=0.0, hint_weight=1.0, **HINTS),
            {'hints'},
            Requests(('low', 'middle', 'high'), (('last',),) * 3),
        ),
        (
            dict(),
            {'mixture'},
            Requests(('high',), ((),) * 3, scores=True, labels=True, read_only=('high',)),
        ),
        (
            dict(hint_weight=1.0, **HINTS),
            {'mixture', 'hints'},
            Requests(('high', 'low', 'middle'), (('last',),) * 3, scores=True, labels=True),
        ),
    ],
    ids=['hints', 'scores', 'both'],
)
def test_parts_without_weight_build_and_request_nothing(
    options: dict[str, Any], modules: set[str], expected: Requests
) -> None:
    method = build(**options)
    assert {name.split('.')[0] for name, _ in method.named_parameters()} == modules
    assert method.requests(TEACHERS) == expected


def test_all_weights_zero_is_inactive() -> None:
    assert not AMTMLKD(kd_weight=0, angle_weight=0, hint_weight=0).active
    assert make().active and make(kd_weight=0, angle_weight=0.1).active


def test_hints_send_gradient_to_regressors_and_groups() -> None:
    method = build(hint_weight=1.0, **HINTS)
    student, teachers = student_output(), teacher_outputs()
    loss = method(student, teachers, None)['loss_hint']
    leaves = (*student.features.values(), *method.hints.regressors.parameters())
    assert min(largest(loss, *leaves)) > 0


@pytest.mark.parametrize('images', [1, 2])
@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_batch_of_one_or_two_images_has_finite_gradients(images: int, objective: str) -> None:
    method = build(hint_weight=1.0, angle_weight=1.0, objective=objective, **HINTS)
    student, teachers = student_output(images), teacher_outputs(images)
    losses = method(student, teachers, torch.arange(images))
    assert losses['loss_angle'].item() == 0.0
    total(losses).backward()
    for tensor in (*method.parameters(), student.scores.logits, *student.features.values()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_half_precision_gives_losses_in_float32() -> None:
    method = build(hint_weight=1.0, angle_weight=1.0, **HINTS)
    half = [
        output(
            logits_of(one).bfloat16(), **{name: x.bfloat16() for name, x in one.features.items()}
        )
        for one in (student_output(), *teacher_outputs())
    ]
    with torch.autocast('cpu', torch.bfloat16):
        losses = method(half[0], half[1:], None)
    assert {value.dtype for value in losses.values()} == {torch.float32}


def train_weights(
    method: AMTMLKD,
    student: NetworkOutput,
    teachers: list[NetworkOutput],
    labels: Tensor,
    **sgd: float,
) -> list[Tensor]:
    """Return the weights before and after 200 steps of the weighting alone."""
    embedding, weighting = student.feature('high').amax(dim=(2, 3)), method.mixture.weighting
    before = weighting(embedding).detach()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, **sgd)
    for _ in range(200):
        optimizer.zero_grad()
        total(method(student, teachers, labels)).backward()
        optimizer.step()
    return [before, weighting(embedding).detach()]


@pytest.mark.parametrize(('objective', 'preferred'), [('paper', 0), ('label', 1)])
def test_weights_follow_the_student_under_paper_and_the_labels_under_label(
    objective: str, preferred: int
) -> None:
    """Teacher 0 has the outputs of the student, confident and wrong; 1 is right; 2 is random."""
    labels, own = torch.randint(0, CLASSES, (64,)), 3 * torch.randn(64, CLASSES)
    right, random = 6 * F.one_hot(labels, CLASSES).float(), torch.randn(64, CLASSES)
    teachers = [output(logits) for logits in (own, right, random)]
    student = output(own, high=torch.randn(64, DIMS, 4, 4).relu())
    method = build(objective=objective, temperature=2.0)
    before, after = train_weights(method, student, teachers, labels)
    assert before.mean(dim=0).max() < 0.7
    assert after.mean(dim=0)[preferred] > 0.99


@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_weights_prefer_each_specialist_on_its_images_in_spite_of_weight_decay(
    objective: str,
) -> None:
    """Teacher 0 is right on images of one kind, teacher 1 on the other; the map shows the kind."""
    labels, kind = torch.randint(0, CLASSES, (64,)), torch.arange(64) % 2
    right, wrong = (6 * F.one_hot((labels + shift) % CLASSES, CLASSES).float() for shift in (0, 1))
    teachers = [output(torch.where((kind == own)[:, None], right, wrong)) for own in (0, 1)]
    maps = torch.rand(64, DIMS, 4, 4)
    maps[:, : DIMS // 2] *= kind.view(-1, 1, 1, 1)
    method = build(2, objective=objective, temperature=2.0)
    student = output(right / 3, high=maps)
    before, after = train_weights(method, student, teachers, labels, weight_decay=5e-4)
    assert (before[kind == 0, 0].mean() - before[kind == 1, 0].mean()).abs() < 0.3
    assert before.std(dim=0).min() > 1e-3, 'images differ from the start'
    assert after[kind == 0, 0].min() > 0.6
    assert after[kind == 1, 1].min() > 0.6


@pytest.mark.parametrize(
    ('options', 'key', 'found'),
    [
        (dict(temperature=0), 'temperature', 0),
        (dict(kd_weight=-1), 'kd_weight', -1),
        (dict(angle_weight=float('nan')), 'angle_weight', float('nan')),
        (dict(hint_weight='1'), 'hint_weight', '1'),
        (dict(angle_locations=0), 'angle_locations', 0),
        (dict(locations=dict(weighting='all')), 'locations.weighting', 'all'),
        (dict(objective='labels'), 'objective', 'labels'),
        (dict(weighting=dict(type='NoRule')), 'weighting.type', 'NoRule'),
        (dict(weighting=dict(type='HintLoss')), 'weighting.type', 'HintLoss'),
        (dict(weighting=dict(type='LatentTeacherWeighting', std=1)), 'weighting.std', 1),
        (dict(hint_weight=1.0), 'student_groups', ()),
        (dict(hint_weight=1.0, student_groups='high'), 'teacher_taps', ()),
        (dict(hint_weight=1.0, **{**HINTS, 'mapping': 'best'}), 'mapping', 'best'),
        (dict(hint_weight=1.0, **{**HINTS, 'student_groups': ['high']}), 'student_groups', 1),
        (dict(hint_weight=1.0, **{**HINTS, 'student_groups': 'high'}), 'student_groups', 1),
    ],
)
def test_setting_that_does_not_fit_is_refused(
    options: dict[str, Any], key: str, found: Any
) -> None:
    with raises_config_error(key, found):
        build(**options)


def test_embedding_that_is_neither_map_nor_vector_is_refused() -> None:
    student = NetworkOutput(
        ClassScores.of_images(torch.zeros(1, CLASSES)), {'tokens': torch.zeros(1, 5, 8)}
    )
    with raises_config_error('embedding_tap', (1, 5, 8), 'map (N, C, H, W)'):
        built(make(embedding_tap='tokens'), student, teacher_outputs(1))
