from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from torch import Tensor

from mmkd_plugin.models.losses import angle_loss, presence_loss
from mmkd_plugin.models.methods import AMTMLKD
from mmkd_plugin.outputs import ClassScores, Knowledge

IMAGES, PLACES, CLASSES, DIMS = 3, 40, 4, 5


def said(
    activation: str, feature: bool = False, seed: int = 0, requires_grad: bool = False
) -> Knowledge:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(IMAGES, PLACES, CLASSES, generator=generator, dtype=torch.float64)
    features = (
        {'high': torch.randn(IMAGES, DIMS, 2, 2, generator=generator, dtype=torch.float64)}
        if feature
        else {}
    )
    return Knowledge(ClassScores(logits.requires_grad_(requires_grad), activation), features)


def bound(
    activation: str = 'sigmoid', **changes: Any
) -> tuple[AMTMLKD, Knowledge, list[Knowledge]]:
    own = said(activation, feature=True, requires_grad=True)
    taught = [said(activation, seed=1), said(activation, seed=2)]
    method = AMTMLKD(**{**dict(temperature=2.0, hint_weight=0.0, embedding_tap='high'), **changes})
    return tiny.bound(method, own, taught).double(), own, taught


def squash(z: Tensor, activation: str) -> Tensor:
    return z.sigmoid() if activation == 'sigmoid' else z.softmax(dim=-1)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_targets_are_mixed_at_each_place_by_the_weights_of_its_image(activation: str) -> None:
    method, own, taught = bound(
        activation,
        kd_weight=0.7,
        angle_weight=0.3,
        angle_locations=8,
        locations=dict(background=0.5),
    )
    losses = method(own, taught, None)
    weights = method.weighting(own.features['high'].amax(dim=(2, 3)))
    foreground = slice(None) if activation == 'sigmoid' else slice(0, CLASSES - 1)
    total, rows = 0.0, []
    for n in range(IMAGES):
        for a in range(PLACES):
            m = max(
                float(squash(t.logits.logits[n, a], activation)[foreground].max()) for t in taught
            )
            if m < 0.5:
                continue
            p = sum(
                w * squash(t.logits.logits[n, a] / 2, activation)
                for w, t in zip(weights[n], taught, strict=True)
            )
            q = squash(own.logits.logits[n, a] / 2, activation)
            kl = (p * (p / q).log()).sum()
            if activation == 'sigmoid':
                kl = kl + ((1 - p) * ((1 - p) / (1 - q)).log()).sum()
            total, rows = total + m * float(kl.detach()), [*rows, (m, p, q)]
    assert losses['loss_kd'].item() == pytest.approx(
        0.7 * 4 * total / sum(m for m, *_ in rows), rel=1e-9
    )
    surest = sorted(rows, key=lambda row: -row[0])[:8]
    expected = angle_loss(*(torch.stack([row[i] for row in surest]) for i in (2, 1)))
    assert losses['loss_angle'].item() == pytest.approx(0.3 * expected.item(), rel=1e-9)


def test_the_angles_are_those_between_the_64_surest_places_of_the_batch() -> None:
    method, own, taught = bound(kd_weight=0.0, locations=dict(weighting='uniform'))
    assert IMAGES * PLACES > 64
    losses = method(own, taught, None)
    weights = method.weighting(own.features['high'].amax(dim=(2, 3)))
    mixed = sum(
        weights[:, t, None, None] * (one.logits.logits / 2).sigmoid()
        for t, one in enumerate(taught)
    )
    confidence = (
        torch.stack([one.logits.logits.sigmoid().amax(dim=-1) for one in taught])
        .amax(dim=0)
        .flatten()
    )
    surest = confidence.argsort(descending=True)[:64]
    rows = [values.flatten(0, 1)[surest] for values in ((own.logits.logits / 2).sigmoid(), mixed)]
    assert losses['loss_angle'].item() == pytest.approx(angle_loss(*rows).item(), rel=1e-9)


def test_an_image_has_one_weight_for_each_teacher(tmp_path: Path) -> None:
    """However many places it has; they add up to 1, and images differ."""
    config = small.detector('gfl')
    taught = [small.teacher(tmp_path, config, seed) for seed in (1, 2)]
    method = dict(
        type='AMTMLKD', hint_weight=0.0, weighting=dict(type='LatentTeacherWeighting', init_std=1.0)
    )
    model = small.distiller(tmp_path, config, taught, methods=dict(amtml=method))
    seen: list[Tensor] = []
    model.methods['amtml'].weighting.register_forward_hook(
        lambda _, __, weights: seen.append(weights)
    )
    small.losses_of(model, small.batch_for('gfl'))
    [weights] = seen
    assert weights.shape == (2, 2)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))
    assert not torch.allclose(weights[0], weights[1])


def test_the_papers_objective_reaches_the_weights_through_the_places() -> None:
    method, own, taught = bound()
    losses = method(own, taught, None)
    assert losses.keys() == {'loss_kd', 'loss_angle', 'weight_entropy'}
    losses['loss_kd'].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.weighting.parameters())
    assert own.logits.logits.grad.abs().sum() > 0


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_the_label_objective_learns_which_classes_are_in_the_image(activation: str) -> None:
    method, own, taught = bound(activation, objective='label', locations=dict(background=0.0))
    assert method.needs_labels
    classes = CLASSES - (activation == 'softmax')
    labels = (torch.rand(IMAGES, classes) > 0.5).float()
    losses = method(own, taught, labels)
    weights = method.weighting(own.features['high'].amax(dim=(2, 3)))
    mixed = sum(
        weights[:, t, None, None] * squash(one.logits.logits, activation)
        for t, one in enumerate(taught)
    )[..., :classes]
    images = torch.arange(IMAGES).repeat_interleave(PLACES)
    torch.testing.assert_close(
        losses['loss_weighting'], presence_loss(mixed.flatten(0, 1), images, labels)
    )
    losses['loss_kd'].backward(retain_graph=True)
    assert all(p.grad is None for p in method.weighting.parameters()), (
        'the student sees the mixture detached'
    )
    losses['loss_weighting'].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.weighting.parameters())


def test_the_teacher_that_knows_what_is_there_is_trusted() -> None:
    """One teacher sees what is in each image, the other says the opposite: the label objective tells them apart."""
    torch.manual_seed(0)
    labels = (torch.rand(IMAGES, CLASSES) > 0.5).float()
    right = (4 * labels - 2)[:, None].expand(-1, PLACES, -1)
    own = Knowledge(
        ClassScores(torch.zeros(IMAGES, PLACES, CLASSES), 'sigmoid'),
        {'high': torch.rand(IMAGES, DIMS, 2, 2) + 0.5},
    )
    taught = [Knowledge(ClassScores(logits, 'sigmoid')) for logits in (-right, right)]
    method = tiny.bound(
        AMTMLKD(hint_weight=0.0, embedding_tap='high', objective='label'), own, taught
    )
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        method(own, taught, labels)['loss_weighting'].backward()
        optimizer.step()
    assert method.weighting(own.features['high'].amax(dim=(2, 3)))[:, 1].min() > 0.9


def test_where_no_place_teaches_all_losses_are_zero_and_the_graph_stays() -> None:
    method, own, _ = bound(objective='label')
    quiet = [
        Knowledge(ClassScores(torch.full((IMAGES, PLACES, CLASSES), -9.0).double(), 'sigmoid'))
    ] * 2
    losses = method(own, quiet, torch.ones(IMAGES, CLASSES))
    parts = [value for name, value in losses.items() if 'loss' in name]
    sum(parts).backward()
    assert [part.item() for part in parts] == [0.0] * 3
    assert all(p.grad is not None and not p.grad.any() for p in method.weighting.parameters())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(weighting=dict(type='EntropyTeacherWeighting')),
            r'^weighting: expected a rule that needs no .*Entropy',
        ),
        (
            dict(weighting=dict(type='ConfidenceTeacherWeighting')),
            r'^weighting: expected a rule that needs no .*Confidence',
        ),
        (dict(gather_angles=True), r'^gather_angles: expected False for detectors'),
        (dict(angle_locations=0), r'^angle_locations: expected an integer >= 1, got 0'),
        (dict(locations=dict(weighting='all')), r'^locations.weighting: expected one of'),
    ],
)
def test_what_does_not_go_with_detectors_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(**changes)


@pytest.mark.parametrize('family', ['gfl', 'faster_rcnn'])
@pytest.mark.parametrize(('objective', 'maps'), [('paper', 'backbone[-1]'), ('label', 'neck[0]')])
def test_two_teachers_teach_a_stock_detector_all_of_it(
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
    taught = [small.teacher(tmp_path, config, seed) for seed in (1, 2)]
    model = small.distiller(tmp_path, config, taught, methods=dict(amtml=method))
    before = tiny.weights_of(model.methods)
    losses = small.losses_of(model, small.batch_for(family))
    expected = {'loss_kd', 'loss_angle', 'loss_hint', 'weight_entropy'} | (
        {'loss_weighting'} if objective == 'label' else set()
    )
    assert {name.removeprefix('amtml.') for name in losses if name.startswith('amtml')} == expected
    assert all(losses[f'amtml.{name}'] > 0 for name in expected)
    small.total(model, losses).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    after = model.methods.state_dict()
    assert all(
        not torch.equal(before[name], after[name]) for name, _ in model.methods.named_parameters()
    )
    assert not any(
        p.grad is not None for teacher in model.teachers for p in teacher.model.parameters()
    )
