from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.errors import raises_config_error
from torch import Tensor

from mmkd_plugin.models.losses import angle_loss, presence_loss
from mmkd_plugin.models.methods import AMTMLKD
from mmkd_plugin.outputs import ClassScores, NetworkOutput

IMAGES, LOCATIONS, CLASSES, DIMS = 3, 40, 4, 5
LEVELS = ((5, 6, 1), (2, 5, 1))


def class_scores(logits: Tensor, activation: str) -> ClassScores:
    """Scores of two levels; a softmax has the background last."""
    return ClassScores(logits, activation, background=activation == 'softmax', levels=LEVELS)


def detector_output(activation: str, seed: int, student: bool = False) -> NetworkOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(IMAGES, LOCATIONS, CLASSES, generator=generator, dtype=torch.float64)
    scores = class_scores(logits.requires_grad_(student), activation)
    if not student:
        return NetworkOutput(scores)
    embedding = torch.randn(IMAGES, DIMS, 2, 2, generator=generator, dtype=torch.float64)
    return NetworkOutput(scores, {'high': embedding})


def build(
    activation: str = 'sigmoid', **changes: Any
) -> tuple[AMTMLKD, NetworkOutput, list[NetworkOutput]]:
    student = detector_output(activation, seed=0, student=True)
    teachers = [detector_output(activation, seed=seed) for seed in (1, 2)]
    defaults = dict(temperature=2.0, hint_weight=0.0, objective='paper', embedding_tap='high')
    method = AMTMLKD(**{**defaults, **changes})
    return tiny.built(method, student, teachers).double(), student, teachers


def weights_of(method: AMTMLKD, student: NetworkOutput) -> Tensor:
    return method.mixture.weighting(student.feature('high').amax(dim=(2, 3)))


def squash(z: Tensor, activation: str) -> Tensor:
    return z.sigmoid() if activation == 'sigmoid' else z.softmax(dim=-1)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_targets_of_each_location_are_mixed_by_the_weights_of_its_image(activation: str) -> None:
    weights = dict(kd_weight=0.7, angle_weight=0.3)
    options = dict(angle_locations=8, locations=dict(background=0.5))
    method, student, teachers = build(activation, **weights, **options)
    losses = method(student, teachers, None)
    mixing = weights_of(method, student)
    foreground = slice(None) if activation == 'sigmoid' else slice(0, CLASSES - 1)
    own, others = student.scores.logits, [one.scores.logits for one in teachers]
    total, rows = 0.0, []
    for n in range(IMAGES):
        for a in range(LOCATIONS):
            m = max(float(squash(z[n, a], activation)[foreground].max()) for z in others)
            if m < 0.5:
                continue
            softened = [squash(z[n, a] / 2, activation) for z in others]
            p = sum(w * one for w, one in zip(mixing[n], softened, strict=True))
            q = squash(own[n, a] / 2, activation)
            kl = (p * (p / q).log()).sum()
            if activation == 'sigmoid':
                kl = kl + ((1 - p) * ((1 - p) / (1 - q)).log()).sum()
            total, rows = total + m * float(kl.detach()), [*rows, (m, p, q)]
    expected = 0.7 * 4 * total / sum(m for m, *_ in rows)
    assert losses['loss_kd'].item() == pytest.approx(expected, rel=1e-9)
    top = sorted(rows, key=lambda row: -row[0])[:8]
    angle = angle_loss(*(torch.stack([row[i] for row in top]) for i in (2, 1)))
    assert losses['loss_angle'].item() == pytest.approx(0.3 * angle.item(), rel=1e-9)


def test_angles_are_those_between_the_64_most_confident_locations_of_the_batch() -> None:
    method, student, teachers = build(kd_weight=0.0, locations=dict(weighting='uniform'))
    assert IMAGES * LOCATIONS > 64
    losses = method(student, teachers, None)
    weights, others = weights_of(method, student), [one.scores.logits for one in teachers]
    mixed = sum(weights[:, t, None, None] * (z / 2).sigmoid() for t, z in enumerate(others))
    confidence = torch.stack([z.sigmoid().amax(dim=-1) for z in others]).amax(dim=0).flatten()
    top = confidence.argsort(descending=True)[:64]
    own = (student.scores.logits / 2).sigmoid()
    rows = [values.flatten(0, 1)[top] for values in (own, mixed)]
    assert losses['loss_angle'].item() == pytest.approx(angle_loss(*rows).item(), rel=1e-9)


def test_image_has_one_weight_for_each_teacher_however_many_locations(tmp_path: Path) -> None:
    config = small.detector('gfl')
    teachers = [small.teacher(tmp_path, config, seed) for seed in (1, 2)]
    weighting = dict(type='LatentTeacherWeighting', init_std=1.0)
    method = dict(type='AMTMLKD', hint_weight=0.0, weighting=weighting)
    model = small.distiller(tmp_path, config, teachers, methods=dict(amtml=method))
    found: list[Tensor] = []
    model.methods['amtml'].mixture.weighting.register_forward_hook(
        lambda _, __, weights: found.append(weights)
    )
    small.losses_of(model, small.batch_for('gfl'))
    [weights] = found
    assert weights.shape == (2, 2)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    assert not torch.allclose(weights[0], weights[1])


def test_objective_paper_reaches_the_weighting_through_the_locations() -> None:
    method, student, teachers = build()
    losses = method(student, teachers, None)
    assert losses.keys() == {'loss_kd', 'loss_angle', 'weight_entropy'}
    losses['loss_kd'].backward()
    parameters = list(method.mixture.weighting.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    assert student.scores.logits.grad.abs().sum() > 0


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_objective_label_learns_which_classes_are_in_the_image(activation: str) -> None:
    options = dict(objective='label', locations=dict(background=0.0))
    method, student, teachers = build(activation, **options)
    assert method.requests(2).needs_labels
    classes = CLASSES - (activation == 'softmax')
    labels = (torch.rand(IMAGES, classes) > 0.5).float()
    losses = method(student, teachers, labels)
    weights = weights_of(method, student)
    mixed = sum(
        weights[:, t, None, None] * squash(one.scores.logits, activation)
        for t, one in enumerate(teachers)
    )[..., :classes]
    images = torch.arange(IMAGES).repeat_interleave(LOCATIONS)
    expected = presence_loss(mixed.flatten(0, 1), images, labels)
    torch.testing.assert_close(losses['loss_weighting'], expected)
    losses['loss_kd'].backward(retain_graph=True)
    parameters = list(method.mixture.weighting.parameters())
    assert all(p.grad is None for p in parameters), 'the student receives the mixture detached'
    losses['loss_weighting'].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_objective_label_prefers_the_teacher_that_finds_the_classes_in_the_image() -> None:
    """One teacher is right about the classes in each image, the other wrong about each."""
    torch.manual_seed(0)
    labels = (torch.rand(IMAGES, CLASSES) > 0.5).float()
    right = (4 * labels - 2)[:, None].expand(-1, LOCATIONS, -1)
    student = NetworkOutput(
        class_scores(torch.zeros(IMAGES, LOCATIONS, CLASSES), 'sigmoid'),
        {'high': torch.rand(IMAGES, DIMS, 2, 2) + 0.5},
    )
    teachers = [NetworkOutput(class_scores(logits, 'sigmoid')) for logits in (-right, right)]
    method = AMTMLKD(hint_weight=0.0, embedding_tap='high', objective='label')
    tiny.built(method, student, teachers)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        method(student, teachers, labels)['loss_weighting'].backward()
        optimizer.step()
    assert weights_of(method, student)[:, 1].min() > 0.9


def test_no_location_that_counts_gives_losses_of_zero_with_a_graph() -> None:
    method, student, _ = build(objective='label')
    quiet = torch.full((IMAGES, LOCATIONS, CLASSES), -9.0).double()
    teachers = [NetworkOutput(class_scores(quiet, 'sigmoid'))] * 2
    losses = method(student, teachers, torch.ones(IMAGES, CLASSES))
    parts = [value for name, value in losses.items() if 'loss' in name]
    sum(parts).backward()
    assert [part.item() for part in parts] == [0.0] * 3
    parameters = list(method.mixture.weighting.parameters())
    assert all(p.grad is not None and not p.grad.any() for p in parameters)


@pytest.mark.parametrize(
    ('changes', 'key', 'found', 'fix'),
    [
        *(
            (
                dict(weighting=dict(type=f'{rule}TeacherWeighting')),
                'weighting.type',
                f'{rule}TeacherWeighting',
                "Use 'LatentTeacherWeighting'",
            )
            for rule in ('Entropy', 'Confidence')
        ),
        (dict(gather_angles=True), 'gather_angles', True, None),
        (dict(angle_locations=0), 'angle_locations', 0, None),
        (dict(locations=dict(weighting='all')), 'locations.weighting', 'all', None),
    ],
)
def test_setting_that_does_not_fit_a_detector_is_refused(
    changes: dict[str, Any], key: str, found: Any, fix: str | None
) -> None:
    with raises_config_error(key, found, fix=fix):
        build(**changes)


@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn'])
@pytest.mark.parametrize(('objective', 'maps'), [('paper', 'backbone[-1]'), ('label', 'neck[0]')])
def test_stock_detector_takes_a_step_by_all_parts_with_two_teachers(
    family: str, objective: str, maps: str, tmp_path: Path
) -> None:
    config = small.detector(family)
    method = dict(
        type='AMTMLKD',
        objective=objective,
        embedding_tap='backbone[-1]',
        student_groups=['backbone[-2]', 'backbone[-1]'],
        teacher_taps=maps,
        mapping=[1, 0],
    )
    teachers = [small.teacher(tmp_path, config, seed) for seed in (1, 2)]
    model = small.distiller(tmp_path, config, teachers, methods=dict(amtml=method))
    before = tiny.weights_of(model.methods)
    losses = small.losses_of(model, small.batch_for(family))
    expected = {'loss_kd', 'loss_angle', 'loss_hint', 'weight_entropy'}
    expected |= {'loss_weighting'} if objective == 'label' else set()
    assert {name.removeprefix('amtml.') for name in losses if name.startswith('amtml')} == expected
    assert all(losses[f'amtml.{name}'] > 0 for name in expected)
    small.total(model, losses).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    after = model.methods.state_dict()
    names = [name for name, _ in model.methods.named_parameters()]
    assert not any(torch.equal(before[name], after[name]) for name in names)
    frozen = [p for teacher in model.teachers for p in teacher.model.parameters()]
    assert not any(p.grad is not None for p in frozen)
