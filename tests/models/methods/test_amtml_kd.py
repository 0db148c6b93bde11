"""The method on tensors: its equations, where gradients go, and what goes wrong in practice."""

from typing import Any

import pytest
import torch
from helpers.classification import knowledge
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses import angle_loss
from mmkd_plugin.models.methods import AMTMLKD, SoftTarget
from mmkd_plugin.outputs import Knowledge

N, T, C, D = 6, 3, 5, 8
HINTS = dict(student_groups=['low', 'middle', 'high'], teacher_taps='last', mapping=[2, 0, 1])


def student(n: int = N, **changes: Tensor) -> Knowledge:
    maps = dict(
        low=torch.randn(n, 4, 8, 8), middle=torch.randn(n, 6, 4, 4), high=torch.randn(n, D, 4, 4)
    )
    features = {name: value.requires_grad_() for name, value in {**maps, **changes}.items()}
    return Knowledge(torch.randn(n, C).requires_grad_(), features)


def teachers(n: int = N, count: int = T) -> list[Knowledge]:
    return [knowledge(torch.randn(n, C), last=torch.randn(n, 7, 4, 4)) for _ in range(count)]


def bound(count: int = T, **options: Any) -> AMTMLKD:
    method = AMTMLKD(
        **{'embedding_tap': 'high', 'hint_weight': 0.0, 'angle_weight': 0.0, **options}
    )
    for index in range(count):
        method.taps_of_teacher(index, count)
    method.bind(student(1), teachers(1, count))
    return method


def mixture_of(method: AMTMLKD, one: Knowledge, taught: list[Knowledge]) -> Tensor:
    """Equations 5 to 7, image by image."""
    rows = []
    for i in range(len(one.logits)):
        embedding = one.features['high'][i].amax(dim=(1, 2))
        scores = torch.stack(
            [
                (method.weighting.direction * theta * embedding).sum()
                for theta in method.weighting.factors
            ]
        )
        weights = scores.softmax(dim=0)
        rows.append(
            sum(
                w * (t.logits[i] / method.temperature).softmax(0)
                for w, t in zip(weights, taught, strict=True)
            )
        )
    return torch.stack(rows)


def test_all_parts_by_the_equations() -> None:
    method = bound(kd_weight=0.5, angle_weight=2.0, hint_weight=3.0, temperature=4.0, **HINTS)
    one, taught = student(), teachers()
    losses = method(one, taught, torch.arange(N) % C)
    assert losses.keys() == {'loss_kd', 'loss_angle', 'loss_hint', 'weight_entropy'}
    mixture = mixture_of(method, one, taught)
    softened = (one.logits / 4).softmax(dim=1)
    kl = (mixture * (mixture.log() - softened.log())).sum(dim=1).mean()
    torch.testing.assert_close(losses['loss_kd'], 0.5 * 16 * kl)
    torch.testing.assert_close(losses['loss_angle'], 2 * angle_loss(softened, mixture))
    hints = []
    for teacher, regressor, group in zip(
        taught, method.regressors, ('high', 'low', 'middle'), strict=True
    ):
        source = F.adaptive_avg_pool2d(one.features[group], 4)
        regressed = (
            torch.einsum('oc,nchw->nohw', regressor.weight, source) + regressor.bias[:, None, None]
        )
        hints.append((regressed - teacher.features['last']).square().mean())
    torch.testing.assert_close(losses['loss_hint'], 3 * sum(hints))


@pytest.mark.parametrize('embedding', [torch.randn(N, D, 1, 1), torch.randn(N, D)])
def test_a_flat_embedding_is_taken_as_it_is(embedding: Tensor) -> None:
    method, one, taught = bound(), student(), teachers()
    maps = dict(one.features, high=embedding.reshape(N, D, 1, 1).expand(N, D, 4, 4))
    expected = method(Knowledge(one.logits, maps), taught, None)['loss_kd']
    got = method(Knowledge(one.logits, dict(one.features, high=embedding)), taught, None)['loss_kd']
    torch.testing.assert_close(got, expected)


def test_uniform_weights_make_it_a_soft_target_of_the_mean() -> None:
    method = bound(weighting=dict(type='UniformTeacherWeighting'), temperature=3.0)
    one, taught = student(), teachers()
    expected = SoftTarget(temperature=3.0)(one, taught, None)['loss_kd']
    torch.testing.assert_close(method(one, taught, None)['loss_kd'], expected)


def gradient(loss: Tensor, *leaves: Tensor) -> list[float]:
    found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return [0.0 if g is None else g.abs().max().item() for g in found]


def test_papers_objective_teaches_the_weights_through_the_divergence() -> None:
    method, one, taught = bound(angle_weight=1.0), student(), teachers()
    losses = method(one, taught, torch.arange(N) % C)
    assert 'loss_weighting' not in losses
    latent = method.weighting.factors, method.weighting.direction
    assert min(gradient(losses['loss_kd'], *latent, one.logits, one.features['high'])) > 1e-6
    assert gradient(losses['loss_angle'], *latent) == [0.0, 0.0]
    assert gradient(losses['loss_angle'], one.logits)[0] > 0


def test_label_objective_teaches_the_weights_through_the_cross_entropy_alone() -> None:
    method, one, taught = bound(objective='label', angle_weight=1.0), student(), teachers()
    labels = torch.arange(N) % C
    losses = method(one, taught, labels)
    latent = method.weighting.factors, method.weighting.direction
    assert min(gradient(losses['loss_weighting'], *latent)) > 1e-6
    assert gradient(losses['loss_weighting'], one.logits) == [0.0]
    for loss in (losses['loss_kd'], losses['loss_angle']):
        assert gradient(loss, *latent, one.features['high']) == [0.0] * 3, (
            'the student sees the mixture detached'
        )
        assert gradient(loss, one.logits)[0] > 0
    expected = F.nll_loss(mixture_of(method, one, taught).log(), labels)
    torch.testing.assert_close(losses['loss_weighting'], expected)


def test_label_objective_under_mixed_labels() -> None:
    method, one, taught = bound(objective='label'), student(), teachers()
    indices = torch.arange(N) % C
    one_hot = F.one_hot(indices, C).float()
    hard, soft = (method(one, taught, labels)['loss_weighting'] for labels in (indices, one_hot))
    torch.testing.assert_close(soft, hard)
    mixed = 0.3 * one_hot + 0.7 * one_hot.roll(1, dims=0)
    log_mixture = mixture_of(method, one, taught).log()
    torch.testing.assert_close(
        method(one, taught, mixed)['loss_weighting'], -(mixed * log_mixture).sum(dim=1).mean()
    )


def test_without_labels_the_paper_works_and_the_label_objective_says_so() -> None:
    assert bound()(student(), teachers(), None)['loss_kd'].isfinite()
    assert bound(objective='label').needs_labels
    assert not bound().needs_labels
    assert not bound(objective='label', weighting=dict(type='UniformTeacherWeighting')).needs_labels
    assert bound(weighting=dict(type='ConfidenceTeacherWeighting')).needs_labels
    with pytest.raises(ValueError, match=r"^objective: expected labels, which 'label' needs"):
        bound(objective='label')(student(), teachers(), None)


def test_an_angle_loss_alone_keeps_the_weights_in_the_graph() -> None:
    method, one, taught = bound(kd_weight=0.0, angle_weight=1.0), student(), teachers()
    sum(value for name, value in method(one, taught, None).items() if 'loss' in name).backward()
    assert all(parameter.grad is not None for parameter in method.parameters()), (
        'or DDP would wait for it'
    )


def test_nothing_unused_is_built() -> None:
    hints_alone = bound(kd_weight=0.0, hint_weight=1.0, **HINTS)
    assert {name.split('.')[0] for name, _ in hints_alone.named_parameters()} == {'regressors'}
    assert hints_alone.student_taps == ('low', 'middle', 'high')
    assert not hints_alone.needs_scores
    scores_alone = bound()
    assert {name.split('.')[0] for name, _ in scores_alone.named_parameters()} == {'weighting'}
    assert (scores_alone.student_taps, scores_alone.taps_of_teacher(0, T)) == (('high',), ())
    assert not AMTMLKD(kd_weight=0, angle_weight=0, hint_weight=0).active


def test_hints_teach_the_regressors_and_the_groups() -> None:
    method, one, taught = bound(hint_weight=1.0, **HINTS), student(), teachers()
    loss = method(one, taught, None)['loss_hint']
    assert min(gradient(loss, *one.features.values(), *method.regressors.parameters())) > 0


def test_a_measured_order_decides_which_group_a_teacher_supervises() -> None:
    method, one, taught = (
        bound(hint_weight=1.0, **{**HINTS, 'mapping': 'best_high'}),
        student(),
        teachers(),
    )
    assert [regressor.weight.shape for regressor in method.regressors] == [(7, D)] * 3, (
        'wide enough for any group'
    )
    with pytest.raises(ValueError, match=r'^mapping: expected measured teachers'):
        method(one, taught, None)
    method.set_teacher_order(
        [1, 2, 0]
    )  # best first: teacher 1 to the high group, 2 to the middle, 0 to the low
    other = bound(hint_weight=1.0, **{**HINTS, 'mapping': [0, 2, 1]})
    for made, known in zip(other.regressors, method.regressors, strict=True):
        made.weight.data = known.weight.data[:, : made.weight.shape[1]].clone()
    torch.testing.assert_close(
        method(one, taught, None)['loss_hint'], other(one, taught, None)['loss_hint']
    )


@pytest.mark.parametrize('n', [1, 2])
@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_a_batch_of_one_or_two_images(n: int, objective: str) -> None:
    method, one, taught = (
        bound(hint_weight=1.0, angle_weight=1.0, objective=objective, **HINTS),
        student(n),
        teachers(n),
    )
    losses = method(one, taught, torch.arange(n))
    assert losses['loss_angle'].item() == 0.0
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    for tensor in (*method.parameters(), one.logits, *one.features.values()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_half_precision_gives_losses_in_float32() -> None:
    method, taught = bound(hint_weight=1.0, angle_weight=1.0, **HINTS), teachers()
    one = student()
    half = Knowledge(
        one.logits.bfloat16(), {name: value.bfloat16() for name, value in one.features.items()}
    )
    with torch.autocast('cpu', torch.bfloat16):
        losses = method(half, [Knowledge(t.logits.bfloat16(), t.features) for t in taught], None)
    assert {value.dtype for value in losses.values()} == {torch.float32}


def train_weights(
    method: AMTMLKD, one: Knowledge, taught: list[Knowledge], labels: Tensor, **sgd: float
) -> list[Tensor]:
    """Weights before and after 200 steps of the weighting alone."""
    embedding = one.features['high'].amax(dim=(2, 3))
    before = method.weighting(embedding).detach()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, **sgd)
    for _ in range(200):
        optimizer.zero_grad()
        sum(
            value for name, value in method(one, taught, labels).items() if 'loss' in name
        ).backward()
        optimizer.step()
    return [before, method.weighting(embedding).detach()]


@pytest.mark.parametrize(('objective', 'trusted'), [('paper', 0), ('label', 1)])
def test_label_free_weights_follow_the_student_and_label_weights_the_truth(
    objective: str, trusted: int
) -> None:
    """Teacher 0 mimics the student, who is sure and mostly wrong; teacher 1 is right; teacher 2 guesses."""
    labels, own = torch.randint(0, C, (64,)), 3 * torch.randn(64, C)
    taught = [
        knowledge(logits) for logits in (own, 6 * F.one_hot(labels, C).float(), torch.randn(64, C))
    ]
    one = knowledge(own, high=torch.randn(64, D, 4, 4).relu())
    before, after = train_weights(bound(objective=objective, temperature=2.0), one, taught, labels)
    assert before.mean(dim=0).max() < 0.7
    assert after.mean(dim=0)[trusted] > 0.99


@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_specialists_are_trusted_at_home_and_realistic_decay_does_not_level_them(
    objective: str,
) -> None:
    """Teacher 0 knows images of one kind, teacher 1 of the other; the student's map tells the kinds, and it begins to learn."""
    labels, kind = torch.randint(0, C, (64,)), torch.arange(64) % 2
    right, wrong = (6 * F.one_hot((labels + shift) % C, C).float() for shift in (0, 1))
    taught = [knowledge(torch.where((kind == home)[:, None], right, wrong)) for home in (0, 1)]
    maps = torch.rand(64, D, 4, 4)
    maps[:, : D // 2] *= kind.view(-1, 1, 1, 1)
    method = bound(2, objective=objective, temperature=2.0)
    before, after = train_weights(
        method, knowledge(right / 3, high=maps), taught, labels, weight_decay=5e-4
    )
    assert (before[kind == 0, 0].mean() - before[kind == 1, 0].mean()).abs() < 0.3
    assert before.std(dim=0).min() > 1e-3, 'images differ from the start'
    assert after[kind == 0, 0].min() > 0.6
    assert after[kind == 1, 1].min() > 0.6


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(temperature=0), r'^temperature: expected a number > 0, got 0$'),
        (dict(kd_weight=-1), r'^kd_weight: expected a number >= 0, got -1$'),
        (dict(angle_weight=float('nan')), r'^angle_weight: expected a number >= 0, got nan$'),
        (dict(hint_weight='1'), r"^hint_weight: expected a number >= 0, got '1'$"),
        (dict(objective='labels'), r"^objective: expected one of 'paper', 'label', got 'labels'"),
        (
            dict(hint_weight=1.0),
            r'^student_groups: expected taps of the student, low to high, and teacher_taps',
        ),
        (
            dict(hint_weight=1.0, **{**HINTS, 'student_groups': ['high']}),
            r'^student_groups: .* each of 3 teachers, got 1',
        ),
        (
            dict(hint_weight=1.0, **{**HINTS, 'student_groups': 'high'}),
            r'^student_groups: .* each of 3 teachers, got 1',
        ),
        (
            dict(hint_weight=1.0, **{**HINTS, 'teacher_taps': ['last'] * 2}),
            r'^teacher_taps: .* each of 3 teachers, got 2',
        ),
        (
            dict(hint_weight=1.0, teacher_channels=[7, 7], **HINTS),
            r'^teacher_channels: .* each of 3 teachers, got \[7, 7\]',
        ),
        (
            dict(hint_weight=1.0, teacher_channels=[7, 8, 7], **HINTS),
            r'^teacher_channels\[1\]: expected 8 channels as the config states, the tap gives \(1, 7, 4, 4\)',
        ),
        (dict(weighting=dict(type='NoRule')), r'^weighting: expected a registered rule'),
        (dict(embedding_tap='none'), r"^features: expected 'none' to be recorded"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(**options)


def test_an_embedding_that_is_no_map() -> None:
    method = AMTMLKD(hint_weight=0, embedding_tap='tokens')
    with pytest.raises(
        ValueError, match=r'^embedding_tap: expected a map .* the tap gives \(1, 5, 8\)'
    ):
        method.bind(Knowledge(torch.zeros(1, C), {'tokens': torch.zeros(1, 5, 8)}), teachers(1))
