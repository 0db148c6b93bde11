"""CWD on the class maps of dense heads, alone and as the divergence of AMTML-KD."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from helpers.classification import built
from helpers.dense_scores import (
    CLASSES,
    IMAGES,
    LEVELS,
    dense_output,
    location,
    valid_locations,
)
from helpers.errors import ANY, raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor

from mmkd_plugin.models.losses import cwd_loss
from mmkd_plugin.models.methods import AMTMLKD, CWD, Requests
from mmkd_plugin.outputs import ClassScores, NetworkOutput

LATENT = dict(type='LatentTeacherWeighting', init_std=1.0)


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(v) for v in values]
    return [e / math.fsum(exponentials) for e in exponentials]


def by_loops(
    student: Tensor,
    teachers: list[Tensor],
    temperature: float,
    weights: list[list[float]],
    mask: Tensor | None = None,
) -> float:
    """One channel of one anchor of one level after the other."""
    mask = valid_locations() if mask is None else mask
    total = 0.0
    for level, (rows, columns, anchors) in enumerate(LEVELS):
        of_level = 0.0
        for n in range(IMAGES):
            for anchor in range(anchors):
                cells = [
                    location(level, row, column, anchor)
                    for row in range(rows)
                    for column in range(columns)
                ]
                cells = [cell for cell in cells if mask[n, cell]]
                for c in range(CLASSES):
                    own, *others = (
                        softmax([float(one[n, cell, c]) / temperature for cell in cells])
                        for one in (student.detach(), *teachers)
                    )
                    target = [
                        math.fsum(w * q for w, q in zip(weights[n], of, strict=True))
                        for of in zip(*others, strict=True)
                    ]
                    of_level += math.fsum(
                        t * math.log(t / s) for t, s in zip(target, own, strict=True)
                    )
        total += of_level / (IMAGES * anchors * CLASSES)
    return temperature**2 * total


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_loss_is_that_of_loops_over_channels_and_cells(count: int, temperature: float) -> None:
    student = dense_output(0, student=True)
    teachers = [dense_output(seed + 1) for seed in range(count)]
    method = built(CWD('scores', temperature, loss_weight=0.5), student, teachers)
    found = method(student, teachers, None)
    assert found.keys() == {'loss_cwd'}
    equal = [[1 / count] * count] * IMAGES
    logits = student.scores.logits, [one.scores.logits for one in teachers]
    expected = 0.5 * by_loops(*logits, temperature, equal)
    assert found['loss_cwd'].item() == pytest.approx(expected, rel=1e-10)
    # Control: padded cells have a part in the value if they are not masked.
    everywhere = torch.ones_like(valid_locations())
    other = 0.5 * by_loops(*logits, temperature, equal, everywhere)
    assert other != pytest.approx(expected, rel=1e-3)


def test_cells_in_the_padding_have_no_part_and_no_gradient() -> None:
    student, teacher = dense_output(0, student=True), dense_output(1)
    loss = CWD('scores')(student, [teacher], None)['loss_cwd']
    loss.backward()
    mask, gradient = valid_locations(), student.scores.logits.grad
    assert not gradient[~mask].any() and gradient.isfinite().all()
    alone = location(2, 0, 0, 0)  # a level of one cell
    assert gradient[mask][:, :].abs().sum() > 0 and not gradient[:, alone].any()
    far = teacher.scores.logits.clone()
    far[~mask] = 1e4
    scores = ClassScores(far, 'sigmoid', levels=LEVELS, valid=mask)
    again = CWD('scores')(student, [NetworkOutput(scores)], None)['loss_cwd']
    assert torch.equal(again, loss)


def test_one_level_without_padding_is_the_loss_of_its_map() -> None:
    own, other = torch.randn(2, 2, 12, CLASSES, dtype=torch.float64)
    pair = [NetworkOutput(ClassScores(one, 'sigmoid', levels=((4, 3, 1),))) for one in (own, other)]
    found = CWD('scores', 2.0, 1.0)(pair[0], pair[1:], None)['loss_cwd']
    maps = [one.transpose(1, 2).unflatten(2, (4, 3)) for one in (own, other)]
    torch.testing.assert_close(found, cwd_loss(*maps, 2.0))


def test_gradient_is_that_of_finite_differences() -> None:
    student, teachers = dense_output(0), [dense_output(1), dense_output(2)]
    logits = student.scores.logits[:, :, :2].clone().requires_grad_()
    for one in teachers:
        object.__setattr__(one.scores, 'logits', one.scores.logits[:, :, :2])

    def loss(values: Tensor) -> Tensor:
        scores = ClassScores(values, 'sigmoid', levels=LEVELS, valid=valid_locations())
        return CWD('scores', 2.0)(NetworkOutput(scores), teachers, None)['loss_cwd']

    assert torch.autograd.gradcheck(loss, (logits,))


def test_differently_padded_batches_share_the_common_area() -> None:
    own, other = torch.randn(1, 12, 2), torch.randn(1, 9, 2)
    student = NetworkOutput(ClassScores(own, 'sigmoid', levels=((4, 3, 1),)))
    teacher = NetworkOutput(ClassScores(other, 'sigmoid', levels=((3, 3, 1),)))
    found = CWD('scores', 1.0, 1.0)(student, [teacher], None)['loss_cwd']
    maps = [one.transpose(1, 2).unflatten(2, (-1, 3))[:, :, :3] for one in (own, other)]
    torch.testing.assert_close(found, cwd_loss(*maps))


@pytest.mark.parametrize('objective', ['paper', 'label'])
def test_amtml_kd_mixes_cells_by_the_weights_of_each_image(objective: str) -> None:
    student, teachers = dense_output(0, student=True), [dense_output(1), dense_output(2)]
    labels = (torch.rand(IMAGES, CLASSES) > 0.5).double()
    torch.manual_seed(2)
    method = AMTMLKD(2.0, 0.5, 0.0, 0.0, LATENT, objective, 'high', soft_target=dict(type='CWD'))
    method = built(method, student, teachers).double()
    losses = method(student, teachers, labels)
    weights = method.mixture.weighting(student.feature('high').amax((2, 3)))
    assert weights.std(dim=0).max() > 0.05
    logits = student.scores.logits, [one.scores.logits for one in teachers]
    expected = 0.5 * by_loops(*logits, 2.0, weights.tolist())
    assert losses['loss_kd'].item() == pytest.approx(expected, rel=1e-9)
    losses['loss_kd'].backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in method.mixture.parameters()]
    assert all(reached) == (objective == 'paper') and any(reached) == (objective == 'paper')
    assert student.scores.logits.grad.any()


def test_defaults_depend_on_what_is_compared() -> None:
    maps, scores = CWD('neck'), CWD('scores')
    assert (maps.temperature, float(maps.loss_weight)) == (1.0, 10.0)
    assert (scores.temperature, float(scores.loss_weight)) == (4.0, 3.0)
    part = AMTMLKD(hint_weight=0.0, soft_target=dict(type='CWD')).soft_target
    assert part.temperature == 5.0, 'that of AMTML-KD, unless it is stated'
    part = AMTMLKD(hint_weight=0.0, soft_target=dict(type='CWD', temperature=4.0)).soft_target
    assert part.temperature == 4.0
    assert scores.requests(2) == Requests(teachers=((), ()), scores=True)


@pytest.mark.parametrize(
    'scores',
    [
        ClassScores.of_images(torch.zeros(1, 4)),
        ClassScores(torch.zeros(1, 9, 4), 'sigmoid', queries=9),
        ClassScores(torch.zeros(1, 2, 4), rois=(torch.zeros(2, 5),), background=True),
    ],
    ids=str,
)
def test_scores_that_form_no_maps_are_refused(scores: ClassScores) -> None:
    one = NetworkOutput(scores, dict(high=torch.zeros(1, 3)))
    with raises_config_error('pairs', 'scores', str(scores), fix="'stages'"):
        built(CWD('scores'), one, [one])
    method = AMTMLKD(hint_weight=0.0, soft_target=dict(type='CWD'), embedding_tap='high')
    with raises_config_error('soft_target.pairs', 'scores', str(scores)):
        built(method, one, [one])


def test_settings_that_do_not_fit_are_refused() -> None:
    with raises_config_error('pairs', 'score', "'scores'"):
        CWD('score')
    with raises_config_error('temperature', 0.0):
        CWD('scores', temperature=0.0)
    with raises_config_error('standardize', True, 'CWD'):
        AMTMLKD(hint_weight=0.0, standardize=True, soft_target=dict(type='CWD'))
    with raises_config_error('soft_target.loss_weight', 2.0):
        AMTMLKD(hint_weight=0.0, soft_target=dict(type='CWD', loss_weight=2.0))
    student = dense_output(0, student=True)
    method = AMTMLKD(
        hint_weight=0.0, soft_target=dict(type='CWD', pairs='neck'), embedding_tap='high'
    )
    with raises_config_error('soft_target.pairs', ANY, "'scores'"):
        built(method, student, [student])


@pytest.mark.parametrize('family', ['gfl', 'retinanet'])
def test_dense_detector_learns_from_class_maps(family: str, tmp_path: Path) -> None:
    methods = dict(
        cwd=dict(type='CWD', pairs='scores'),
        amtml=dict(type='AMTMLKD', angle_weight=0.0, hint_weight=0.0, soft_target=dict(type='CWD')),
    )
    model = small.distiller(tmp_path, small.detector(family), methods=methods).train()
    losses = small.losses_of(model, small.batch_for(family))
    parameters = [p for p in model.student.parameters() if p.requires_grad]
    for name in ('cwd.loss_cwd', 'amtml.loss_kd'):
        assert losses[name] > 0 and losses[name].isfinite()
        found = torch.autograd.grad(losses[name], parameters, retain_graph=True, allow_unused=True)
        assert any(one is not None and one.any() for one in found)
        assert all(one is None or one.isfinite().all() for one in found)


def test_classifier_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with raises_config_error('methods.m.pairs', 'scores', 'one location an image'):
        tiny.distiller(tmp_path, methods=dict(m=dict(type='CWD', pairs='scores')))


@pytest.mark.parametrize(
    'method',
    [
        dict(type='CWD', pairs='scores'),
        dict(type='AMTMLKD', hint_weight=0.0, soft_target=dict(type='CWD')),
    ],
    ids=lambda one: one['type'],
)
def test_stored_teacher_is_refused(method: dict[str, Any], tmp_path: Path) -> None:
    """Its store holds the locations alone where it is confident."""
    detector = small.detector('gfl')
    teacher = dict(small.teacher(tmp_path, detector, 1), replay=dict(path=str(tmp_path / 'store')))
    config = dict(type='mmkd_plugin.Distiller', student=detector, teachers=[teacher])
    init_default_scope('mmdet')
    with raises_config_error('methods.m.type', method['type'], 'every location', fix='replay'):
        ROOT_MODELS.build(dict(config, methods=dict(m=method)))
