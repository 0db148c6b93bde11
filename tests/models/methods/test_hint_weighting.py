"""Hints of AMTML-KD whose images have the weights of the mixture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.classification import built, output
from helpers.errors import raises_config_error
from helpers.multi_teacher import (
    HINTS,
    IMAGES,
    LABELS,
    TEACHERS,
    gradients,
    largest,
    student_output,
    teacher_outputs,
)
from torch import Tensor

from mmkd_plugin.models.losses import FeatureLoss, cwd_loss, hint_loss, pkd_loss
from mmkd_plugin.models.methods import AMTMLKD
from mmkd_plugin.registry import MODELS

LATENT = dict(type='LatentTeacherWeighting', init_std=0.3)


def build(**options: Any) -> tuple[AMTMLKD, Any, Any]:
    torch.manual_seed(4)
    student, teachers = student_output(), teacher_outputs()
    settings = dict(weighting=LATENT, embedding_tap='high', hint_weighting='image', **HINTS)
    method = AMTMLKD(**{**settings, **options})
    return built(method, student, teachers), student, teachers


def weights_of(method: AMTMLKD, student: Any) -> Tensor:
    return method.mixture.weighting(student.feature('high').amax((2, 3))).detach()


def maps_of(method: AMTMLKD, student: Any, teachers: Any) -> list[tuple[Tensor, Tensor]]:
    """The maps of each teacher's hint, the student's behind its regressor."""
    taps = [HINTS['student_groups'][group] for group in HINTS['mapping']]
    return [
        (regressor(student.feature(tap), (4, 4)), teacher.feature('last'))
        for regressor, tap, teacher in zip(method.hints.regressors, taps, teachers, strict=True)
    ]


def squares(student: Tensor, teacher: Tensor) -> float:
    both = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    return sum((a - b) ** 2 for a, b in both) / student.numel()


@pytest.mark.parametrize(
    ('config', 'of_image'),
    [
        (None, squares),
        (
            dict(type='CWDLoss', temperature=2.0, loss_weight=3.0),
            lambda s, t: 3 * cwd_loss(s[None], t[None], 2.0).item(),
        ),
    ],
    ids=['hint', 'cwd'],
)
def test_hint_of_an_image_has_the_weight_of_its_teacher(
    config: Any, of_image: Callable[[Tensor, Tensor], float]
) -> None:
    method, student, teachers = build(hint_loss=config, hint_weight=2.0)
    found = method(student, teachers, LABELS)['loss_hint']
    weights = weights_of(method, student)
    assert weights.std(dim=0).max() > 0.05
    expected = 0.0
    for t, (own, target) in enumerate(maps_of(method, student, teachers)):
        for i in range(IMAGES):
            expected += 2 / IMAGES * float(weights[i, t]) * of_image(own[i].detach(), target[i])
    assert found.item() == pytest.approx(expected, rel=1e-4)
    # Control: the weights of other images have another value.
    moved = weights.roll(1, dims=0)
    other = method.hints(student, teachers, LABELS, moved)['loss_hint']
    assert not torch.isclose(other, found, rtol=1e-3)


def test_pkd_weighs_the_squares_of_maps_that_the_batch_standardises() -> None:
    method, student, teachers = build(hint_loss=dict(type='PKDLoss'))
    found = method(student, teachers, LABELS)['loss_hint']
    weights, expected = weights_of(method, student), 0.0
    for t, pair in enumerate(maps_of(method, student, teachers)):
        own, target = (
            (x - x.mean((0, 2, 3), keepdim=True))
            / x.var((0, 2, 3), correction=0, keepdim=True).sqrt()
            for x in (one.detach().double() for one in pair)
        )
        for i in range(IMAGES):
            expected += float(weights[i, t]) / IMAGES * squares(own[i], target[i]) / 2
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('config', [None, dict(type='CWDLoss'), dict(type='PKDLoss')])
def test_equal_weights_are_the_sum_over_its_number_of_teachers(config: Any) -> None:
    uniform = dict(weighting=dict(type='UniformTeacherWeighting'), hint_loss=config)
    losses = []
    for how in ('image', 'uniform'):
        method, student, teachers = build(hint_weighting=how, **uniform)
        losses.append(method(student, teachers, LABELS)['loss_hint'])
    torch.testing.assert_close(TEACHERS * losses[0], losses[1])


@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_hints_do_not_train_the_weighting(objective: str) -> None:
    method, student, teachers = build(objective=objective)
    loss = method(student, teachers, LABELS)['loss_hint']
    assert not any(one.any() for one in gradients(loss, *method.mixture.parameters()))
    assert min(largest(loss, *student.features.values(), *method.hints.parameters())) > 0


def test_hints_alone_are_weighted_too() -> None:
    """Without the other parts the mixture is made for its weights."""
    method, student, teachers = build(kd_weight=0.0, angle_weight=0.0)
    losses = method(student, teachers, LABELS)
    assert {'loss_hint', 'weight_entropy'} <= losses.keys()
    weighted = method.hints(student, teachers, LABELS, weights_of(method, student))
    assert torch.equal(losses['loss_hint'], weighted['loss_hint'])
    plain, *_ = build(kd_weight=0.0, angle_weight=0.0, hint_weighting='uniform')
    assert plain.mixture is None


def test_loss_without_a_form_for_images_is_refused() -> None:
    with raises_config_error('hint_loss.type', 'MGDLoss', fix="'CWDLoss'"):
        build(hint_loss=dict(type='MGDLoss'))
    build(hint_loss=dict(type='MGDLoss'), hint_weighting='uniform')
    with raises_config_error('hint_weighting', 'images', "'image'"):
        build(hint_weighting='images')


def test_loss_of_a_user_receives_the_weights_if_it_says_so() -> None:
    @MODELS.register_module(name='RowLoss')
    class RowLoss(FeatureLoss):
        takes_weights = True

        def forward(
            self, student: Tensor, teacher: Tensor, weights: Tensor | None = None
        ) -> Tensor:
            assert weights is not None and weights.shape == (IMAGES,)
            return (weights * (student - teacher).square().flatten(1).mean(1)).sum()

    try:
        method, student, teachers = build(hint_loss=dict(type='RowLoss'))
        found = method(student, teachers, LABELS)['loss_hint']
    finally:
        del MODELS.module_dict['RowLoss']
    method, *_ = build()
    torch.testing.assert_close(found, method(student, teachers, LABELS)['loss_hint'])


@pytest.mark.parametrize('loss', [hint_loss, cwd_loss, pkd_loss])
def test_weights_of_one_over_n_are_the_default(loss: Callable[..., Tensor]) -> None:
    student, teacher = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    equal = torch.full((4,), 0.25)
    torch.testing.assert_close(loss(student, teacher, weights=equal), loss(student, teacher))
    one = torch.tensor([0.0, 2.0, 0.0, 0.0])
    assert not torch.isclose(loss(student, teacher, weights=one), loss(student, teacher))
    with pytest.raises(ValueError, match=r'weights must be \(4,\)'):
        loss(student, teacher, weights=torch.ones(3))


@pytest.mark.parametrize('config', [None, dict(type='CWDLoss')])
def test_classifier_and_detector_take_a_step(config: Any, tmp_path: Path) -> None:
    extra = dict(hint_loss=config, hint_weighting='image')
    model = tiny.distiller(tmp_path, methods=dict(m=tiny.amtml(**extra)))
    losses = tiny.losses_of(model)
    assert losses['m.loss_hint'] > 0
    losses['m.loss_hint'].backward()
    detector = small.detector('gfl')
    method = dict(
        type='AMTMLKD',
        student_groups=['backbone[-2]', 'backbone[-1]'],
        teacher_taps='neck[0]',
        mapping=[1, 0],
        **extra,
    )
    teachers = [small.teacher(tmp_path, detector, seed) for seed in (1, 2)]
    model = small.distiller(tmp_path, detector, teachers, methods=dict(m=method))
    losses = small.losses_of(model, small.batch_for('gfl'))
    assert losses['m.loss_hint'] > 0
    small.total(model, losses).backward()


def test_vectors_have_weights_too() -> None:
    student, teacher = output(flat=torch.randn(3, 4)), output(flat=torch.randn(3, 4))
    pair = student.feature('flat'), teacher.feature('flat')
    weights = torch.tensor([0.5, 0.0, 1.0])
    expected = sum(w * squares(a, b) for w, a, b in zip(weights.tolist(), *pair, strict=True))
    assert hint_loss(*pair, weights=weights).item() == pytest.approx(expected, rel=1e-5)
