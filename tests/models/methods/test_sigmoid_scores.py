"""DIST on heads with a sigmoid, mixtures of sigmoid scores, and what is refused for them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import detection as small
from helpers.classification import built
from helpers.dense_scores import (
    CLASSES,
    IMAGES,
    LEVELS,
    LOCATIONS,
    dense_output,
    location,
    valid_locations,
)
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor

from mmkd_plugin.models.losses import dist_loss
from mmkd_plugin.models.methods import AMTMLKD, DIST, DKD, NKD, SoftTarget
from mmkd_plugin.outputs import ClassScores, NetworkOutput

PAPER = dict(weighting=dict(type='LatentTeacherWeighting', init_std=1.0), objective='paper')
UNIFORM = dict(weighting='uniform')


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def pearson(x: list[float], y: list[float], weights: list[float]) -> float:
    """Correlate two lists whose entries count as often as their weights say."""
    share = [w / math.fsum(weights) for w in weights]
    means = [math.fsum(w * v for w, v in zip(share, one, strict=True)) for one in (x, y)]
    a, b = ([v - mean for v in one] for one, mean in zip((x, y), means, strict=True))

    def product(one: list[float], other: list[float]) -> float:
        return math.fsum(w * p * q for w, p, q in zip(share, one, other, strict=True))

    return product(a, b) / math.sqrt(product(a, a) * product(b, b))


def by_loops(
    student: Tensor, targets: list[list[float]], rows: list[tuple[int, int, float]], tau: float
) -> float:
    """DIST with both parts weighted by 1, over rows (image, location, weight)."""
    own = [[sigmoid(z / tau) for z in student[n, a].tolist()] for n, a, _ in rows]
    weights = [m for *_, m in rows]
    total = math.fsum(weights)
    equal = [1.0] * CLASSES
    inter = math.fsum(
        m / total * pearson(p, q, equal) for m, p, q in zip(weights, own, targets, strict=True)
    )
    columns = [
        pearson([p[c] for p in own], [q[c] for q in targets], weights) for c in range(CLASSES)
    ]
    return tau**2 * (1 - inter + 1 - math.fsum(columns) / CLASSES)


def rows_of(teachers: list[Tensor], background: float) -> list[tuple[int, int, float]]:
    """Locations inside the images where a teacher is confident, with that confidence."""
    valid = valid_locations()
    found = []
    for n in range(IMAGES):
        for a in range(LOCATIONS):
            m = max(sigmoid(z) for one in teachers for z in one[n, a].tolist())
            if valid[n, a] and m >= background:
                found.append((n, a, m))
    return found


@pytest.mark.parametrize('temperature', [1.0, 2.5])
def test_dist_equals_weighted_correlations_of_sigmoid_probabilities(temperature: float) -> None:
    student, teacher = dense_output(0, student=True), dense_output(1)
    locations = dict(background=0.85)
    method = built(DIST(temperature, locations=locations), student, [teacher])
    found = method(student, [teacher], None)['loss_dist']
    own, other = student.scores.logits, teacher.scores.logits
    rows = rows_of([other], 0.85)
    assert 5 < len(rows) < int(valid_locations().sum())
    targets = [[sigmoid(z / temperature) for z in other[n, a].tolist()] for n, a, _ in rows]
    expected = by_loops(own, targets, rows, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    # Controls: locations of one weight, and a softmax, have other values.
    equal = [(n, a, 1.0) for n, a, _ in rows]
    assert by_loops(own, targets, equal, temperature) != pytest.approx(expected, rel=1e-3)
    kept = torch.tensor([[n, a] for n, a, _ in rows]).T
    pair = own[kept[0], kept[1]], other[kept[0], kept[1]]
    assert dist_loss(*pair, temperature).item() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric'])
def test_dist_of_several_teachers_has_the_mean_of_their_probabilities(ensemble: str) -> None:
    student, teachers = dense_output(0, student=True), [dense_output(1), dense_output(2)]
    method = DIST(2.0, ensemble=ensemble, locations=dict(background=0.8))
    found = method(student, teachers, None)['loss_dist']
    logits = [one.scores.logits for one in teachers]
    rows, targets = rows_of(logits, 0.8), []
    for n, a, _ in rows:
        pairs = list(zip(*(one[n, a].tolist() for one in logits), strict=True))
        if ensemble == 'arithmetic':
            targets.append([(sigmoid(x / 2) + sigmoid(y / 2)) / 2 for x, y in pairs])
        else:
            targets.append([sigmoid((x + y) / 4) for x, y in pairs])
    expected = by_loops(student.scores.logits, targets, rows, 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_mixture_of_an_image_has_the_weights_of_that_image() -> None:
    student, teachers = dense_output(0, student=True), [dense_output(1), dense_output(2)]
    locations = dict(background=0.8)
    shared = dict(PAPER, embedding_tap='high', locations=locations)
    part = AMTMLKD(2.0, 0.5, 0.0, 0.0, soft_target=dict(type='DIST'), **shared)
    alone = DIST(2.0, 0.5, **shared)
    values = []
    for method in (part, alone):
        torch.manual_seed(3)
        method = built(method, student, teachers).double()
        losses = method(student, teachers, None)
        values.append(next(iter(losses.values())))
        weighting = method.mixture.weighting
    weights = weighting(student.feature('high').amax((2, 3))).tolist()
    assert max(abs(one[0] - other[0]) for one in weights for other in weights) > 0.05
    logits = [one.scores.logits for one in teachers]
    rows, targets = rows_of(logits, 0.8), []
    for n, a, _ in rows:
        pairs = zip(*(one[n, a].tolist() for one in logits), strict=True)
        targets.append(
            [weights[n][0] * sigmoid(x / 2) + weights[n][1] * sigmoid(y / 2) for x, y in pairs]
        )
    expected = 0.5 * by_loops(student.scores.logits, targets, rows, 2.0)
    assert [value.item() for value in values] == pytest.approx([expected] * 2, rel=1e-9)
    values[0].backward()  # the paper's objective
    assert all(p.grad is not None and p.grad.any() for p in part.mixture.weighting.parameters())


def test_soft_target_as_a_part_is_the_binary_divergence_of_a_sigmoid() -> None:
    """It was that of a softmax."""
    student, teachers = dense_output(0, student=True), [dense_output(1), dense_output(2)]
    options = dict(PAPER, embedding_tap='high', locations=UNIFORM)
    values = []
    for part in (dict(type='SoftTarget'), None):
        torch.manual_seed(3)
        method = AMTMLKD(2.0, 1.0, 0.0, 0.0, soft_target=part, **options)
        losses = built(method, student, teachers).double()(student, teachers, None)
        values.append(losses['loss_kd'].item())
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_multi_label_classifier_is_compared_class_by_class() -> None:
    own, other = torch.randn(2, 6, CLASSES, dtype=torch.float64)
    pair = [NetworkOutput(ClassScores.of_images(one, 'sigmoid')) for one in (own, other)]
    found = built(DIST(2.0), pair[0], pair[1:])(pair[0], pair[1:], None)['loss_dist']
    rows = [(0, n, 1.0) for n in range(6)]
    targets = [[sigmoid(z / 2) for z in row] for row in other.tolist()]
    assert found.item() == pytest.approx(by_loops(own[None], targets, rows, 2.0), rel=1e-10)
    torch.testing.assert_close(found, dist_loss(own, other, 2.0, activation='sigmoid'))


def test_common_shift_of_logits_changes_a_sigmoid_and_no_softmax() -> None:
    student, teacher = torch.randn(2, 6, CLASSES, dtype=torch.float64)
    shift = 2 * torch.randn(6, 1, dtype=torch.float64)
    for activation, same in (('softmax', True), ('sigmoid', False)):
        pair = [
            dist_loss(one, teacher, activation=activation) for one in (student, student + shift)
        ]
        assert bool(torch.isclose(*pair)) == same


def test_one_class_needs_the_relation_of_its_rows_alone() -> None:
    student, teacher = dense_output(0, True, classes=1), dense_output(1, classes=1)
    with raises_config_error('type', 'DIST', '1 classes', fix='inter_weight=0'):
        built(DIST(), student, [teacher])
    method = built(DIST(inter_weight=0.0, locations=UNIFORM), student, [teacher])
    found = method(student, [teacher], None)['loss_dist']
    mask = valid_locations()
    pair = (
        [sigmoid(z) for z in one.scores.logits[mask].flatten().tolist()]
        for one in (student, teacher)
    )
    assert found.item() == pytest.approx(1 - pearson(*pair, [1.0] * int(mask.sum())), rel=1e-10)
    softmax = NetworkOutput(ClassScores.of_images(torch.zeros(1, 1)))
    with raises_config_error('type', 'DIST', fix='SoftTarget'):
        built(DIST(inter_weight=0.0), softmax, [softmax])


@pytest.mark.parametrize('kind', [DKD, NKD])
def test_refusal_says_why_and_names_what_takes_a_sigmoid(kind: Any) -> None:
    student = dense_output(0, student=True)
    with raises_config_error('type', kind.__name__, 'one distribution', fix="'DIST'"):
        built(kind(), student, [student])


@pytest.mark.parametrize('kind', [DIST, SoftTarget])
def test_standardised_sigmoid_is_refused(kind: Any) -> None:
    student = dense_output(0, student=True)
    with raises_config_error('standardize', True, 'background', fix="'BCKD'"):
        built(kind(standardize=True), student, [student])


@pytest.mark.parametrize('family', ['gfl', 'retinanet'])
def test_dense_detector_learns_by_dist(family: str, tmp_path: Path) -> None:
    methods = dict(
        dist=dict(type='DIST'),
        cells=dict(type='DIST', rows='cells'),
        amtml=dict(
            type='AMTMLKD',
            temperature=1.0,
            angle_weight=0.0,
            hint_weight=0.0,
            soft_target=dict(type='DIST'),
        ),
    )
    model = small.distiller(tmp_path, small.detector(family), methods=methods).train()
    losses = small.losses_of(model, small.batch_for(family))
    parameters = [p for p in model.student.parameters() if p.requires_grad]
    for name in ('dist.loss_dist', 'cells.loss_dist', 'amtml.loss_kd'):
        assert losses[name] > 0
        found = torch.autograd.grad(losses[name], parameters, retain_graph=True, allow_unused=True)
        assert any(one is not None and one.any() for one in found)
        assert all(one is None or one.isfinite().all() for one in found)


def test_stored_teacher_is_taken_where_locations_are_stored(tmp_path: Path) -> None:
    detector = small.detector('gfl')
    teacher = dict(small.teacher(tmp_path, detector, 1), replay=dict(path=str(tmp_path / 'store')))
    config = dict(type='mmkd_plugin.Distiller', student=detector, teachers=[teacher])
    init_default_scope('mmdet')
    ROOT_MODELS.build(dict(config, methods=dict(m=dict(type='DIST'))))
    with raises_config_error('methods.m.locations', 0.0, fix='background'):
        ROOT_MODELS.build(dict(config, methods=dict(m=dict(type='DIST', locations=UNIFORM))))


def test_one_level_of_one_anchor_has_the_value_of_the_authors_layout() -> None:
    """Theirs has one loss a level; its rows are cells, its columns the classes of all anchors."""
    own, other = torch.randn(2, 2, 12, CLASSES, dtype=torch.float64)
    pair = [NetworkOutput(ClassScores(one, 'sigmoid', levels=((4, 3, 1),))) for one in (own, other)]
    found = DIST(locations=UNIFORM)(pair[0], pair[1:], None)['loss_dist']
    cells = [one.flatten(0, 1) for one in (own, other)]
    torch.testing.assert_close(found, dist_loss(*cells, activation='sigmoid'))


def cells_by_loops(
    student: Tensor,
    teachers: list[Tensor],
    tau: float,
    mixing: list[list[float]],
    weigh: Callable[[int, int], float],
) -> float:
    """Add up the losses of levels: a row is a cell, its columns the classes of all anchors."""
    total = 0.0
    for level, (rows, columns, anchors) in enumerate(LEVELS):
        own, target, weights = [], [], []
        for n in range(IMAGES):
            for cell in range(rows * columns):
                first = location(level, cell // columns, cell % columns, 0)
                anchors_of = range(first, first + anchors)
                weight = math.fsum(weigh(n, a) for a in anchors_of)
                if not weight:
                    continue
                weights.append(weight)
                own.append([sigmoid(z / tau) for a in anchors_of for z in student[n, a].tolist()])
                softened = [
                    [sigmoid(z / tau) for a in anchors_of for z in one[n, a].tolist()]
                    for one in teachers
                ]
                target.append(
                    [
                        math.fsum(w * p for w, p in zip(mixing[n], of, strict=True))
                        for of in zip(*softened, strict=True)
                    ]
                )
        if len(own) < 2:
            continue
        width = len(own[0])
        inter = math.fsum(
            w / math.fsum(weights) * pearson(p, q, [1.0] * width)
            for w, p, q in zip(weights, own, target, strict=True)
        )
        intra = [
            pearson([p[c] for p in own], [q[c] for q in target], weights) for c in range(width)
        ]
        total += 2 - inter - math.fsum(intra) / width
    return tau**2 * total


@pytest.mark.parametrize('weighting', ['uniform', 'foreground'])
def test_cells_are_rows_and_anchors_columns_in_the_authors_layout(weighting: str) -> None:
    student, teachers = dense_output(0, student=True), [dense_output(1), dense_output(2)]
    locations = dict(weighting=weighting, background=0.9)
    method = built(DIST(2.0, rows='cells', locations=locations), student, teachers)
    found = method(student, teachers, None)['loss_dist']
    own, *others = (one.scores.logits for one in (student, *teachers))
    valid = valid_locations()

    def weigh(n: int, a: int) -> float:
        m = max(sigmoid(z) for one in others for z in one[n, a].tolist())
        inside = float(valid[n, a])
        return inside if weighting == 'uniform' else inside * m * (m >= 0.9)

    expected = cells_by_loops(own, others, 2.0, [[0.5, 0.5]] * IMAGES, weigh)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    other = DIST(2.0, locations=locations)(student, teachers, None)['loss_dist']
    assert other.item() != pytest.approx(expected, rel=1e-2)
    found.backward()
    assert not student.scores.logits.grad[~valid].any()


def test_cells_are_mixed_by_the_weights_of_their_image() -> None:
    student, teachers = dense_output(0, student=True), [dense_output(1), dense_output(2)]
    part = dict(type='DIST', rows='cells')
    options = dict(PAPER, embedding_tap='high', locations=UNIFORM)
    method = AMTMLKD(2.0, 0.5, 0.0, 0.0, soft_target=part, **options)
    torch.manual_seed(3)
    method = built(method, student, teachers).double()
    found = method(student, teachers, None)['loss_kd']
    weights = method.mixture.weighting(student.feature('high').amax((2, 3))).tolist()
    own, *others = (one.scores.logits for one in (student, *teachers))
    valid = valid_locations()
    expected = cells_by_loops(own, others, 2.0, weights, lambda n, a: float(valid[n, a]))
    assert found.item() == pytest.approx(0.5 * expected, rel=1e-9)


def test_cells_without_a_dense_sigmoid_are_refused(tmp_path: Path) -> None:
    with raises_config_error('rows', 'cell', "'cells'"):
        DIST(rows='cell')
    softmax = dense_output(0, True, 'softmax')
    classifier = NetworkOutput(ClassScores.of_images(torch.zeros(1, 4), 'sigmoid'))
    for one in (softmax, classifier):
        with raises_config_error('rows', 'cells', str(one.scores)):
            built(DIST(rows='cells'), one, [one])
    detector = small.detector('gfl')
    teacher = dict(small.teacher(tmp_path, detector, 1), replay=dict(path=str(tmp_path / 'store')))
    config = dict(type='mmkd_plugin.Distiller', student=detector, teachers=[teacher])
    init_default_scope('mmdet')
    with raises_config_error('methods.m.type', 'DIST', 'every location', fix='replay'):
        ROOT_MODELS.build(dict(config, methods=dict(m=dict(type='DIST', rows='cells'))))
