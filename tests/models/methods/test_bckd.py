"""BCKD: losses of loops in float64, decoded boxes, normalisation and refusals."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import dense_families as families
from helpers import detection as small
from helpers.box_loops import giou
from helpers.classification import built
from helpers.errors import raises_config_error

from mmkd_plugin.anchors import AnchorGrid, DeltaCoder
from mmkd_plugin.models.methods import BCKD, Method, Requests
from mmkd_plugin.models.methods.divisor import count_positives
from mmkd_plugin.outputs import BoxOutputs, ClassScores, NetworkOutput
from mmkd_plugin.registry import MODELS

LEVELS = ((2, 3, 1),)
#: Two objects in the first image, none in the second.
ASSIGNED = torch.tensor([[-1, 0, -1, 2, -1, -1], [-1] * 6])
CODER = DeltaCoder((0.1, 0.0, 0.0, -0.1), (0.5, 0.4, 0.3, 0.2), log_limit=0.3)
LOSSES = ('loss_scores', 'loss_boxes')
KINDS = ('distribution', 'distance', 'delta')


def dense(seed: int, kind: str = 'distribution') -> NetworkOutput:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 6, 4, 5) if kind == 'distribution' else (2, 6, 4)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = values.abs() if kind == 'distance' else values
    logits = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 3:] = False
    scores = ClassScores(logits, 'sigmoid', levels=LEVELS, valid=valid, assigned=ASSIGNED)
    boxes = BoxOutputs(
        values,
        kind,
        levels=LEVELS,
        valid=valid,
        anchors=(AnchorGrid(((-8.0, -6.0, 8.0, 6.0),), (4.0, 4.0)),),
        coder=CODER if kind == 'delta' else None,
    )
    return NetworkOutput(scores, boxes=boxes)


def corners(output: NetworkOutput, n: int, a: int) -> list[float]:
    """Return the box of a location in pixels, as its head decodes it."""
    boxes = output.boxes
    assert boxes is not None
    values = boxes.values[n, a]
    x, y = 4.0 * (a % 3), 4.0 * (a // 3)
    if boxes.kind == 'delta':
        d = [v * s + m for v, s, m in zip(values.tolist(), CODER.stds, CODER.means, strict=True)]
        across, down = (math.exp(min(max(v, -0.3), 0.3)) for v in d[2:])
        x, y, width, height = x + 16 * d[0], y + 12 * d[1], 16 * across, 12 * down
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if boxes.kind == 'distribution':
        values = values.softmax(1) @ torch.arange(5.0, dtype=torch.float64)
    left, top, right, bottom = values.tolist()
    return [x - left, y - top, x + right, y + bottom]


def sums_of_loops(student: NetworkOutput, teacher: NetworkOutput) -> tuple[float, float, float]:
    """Return the sums over locations for scores and boxes, and the teacher's confidence."""
    scores = boxes = confidence = 0.0
    for n in range(2):
        for a in range(6 if n == 0 else 3):
            q = student.scores.logits[n, a].sigmoid().tolist()
            p = teacher.scores.logits[n, a].sigmoid().tolist()
            confidence += max(p) * (max(p) >= 0.05)
            for pc, qc in zip(p, q, strict=True):
                scores -= abs(pc - qc) * (pc * math.log(qc) + (1 - pc) * math.log(1 - qc))
            difference = max(abs(x - y) for x, y in zip(p, q, strict=True))
            boxes += difference * (1 - giou(corners(student, n, a), corners(teacher, n, a)))
    return scores, boxes, confidence


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('normalize', ['positives', 'confidence'])
def test_losses_are_those_of_loops_over_locations(kind: str, normalize: str) -> None:
    student, teacher = dense(0, kind), dense(1, kind)
    scores, boxes, confidence = sums_of_loops(student, teacher)
    # Two positives, and one for the image that has none.
    z = 3.0 if normalize == 'positives' else max(confidence, 1.0)
    method = built(BCKD(normalize=normalize), student, [teacher])
    losses = method(student, [teacher], None)
    assert losses['loss_scores'].item() == pytest.approx(scores / z, rel=1e-9)
    assert losses['loss_boxes'].item() == pytest.approx(4 * boxes / z, rel=1e-9)
    assert z != pytest.approx(confidence if normalize == 'positives' else 3.0)


def test_positives_are_the_default_and_their_mean_over_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher = dense(0), dense(1)
    alone = BCKD()(student, [teacher], None)['loss_scores']

    def other_rank(value: torch.Tensor, op: str) -> None:
        assert op == 'mean'
        value.copy_((value + 9.0) / 2)

    monkeypatch.setattr('mmkd_plugin.models.methods.divisor.dist.all_reduce', other_rank)
    both = BCKD()(student, [teacher], None)['loss_scores']
    assert both.item() == pytest.approx(alone.item() * 3 / 6)


def test_images_without_objects_have_a_finite_loss() -> None:
    student, teacher = dense(0), dense(1)
    empty = replace(student, scores=replace(student.scores, assigned=torch.full((2, 6), -1)))
    losses = BCKD()(empty, [teacher], None)
    scores, boxes, _ = sums_of_loops(student, teacher)
    assert losses['loss_scores'].item() == pytest.approx(scores / 2)
    assert losses['loss_boxes'].item() == pytest.approx(4 * boxes / 2)


def test_equal_networks_have_no_loss() -> None:
    for kind in KINDS:
        student = dense(0, kind)
        losses = BCKD()(student, [student], None)
        assert losses['loss_scores'] < 1e-300 and losses['loss_boxes'] == 0


def test_boxes_that_cannot_be_decoded_are_refused() -> None:
    output = dense(0, 'delta')
    output = replace(output, boxes=replace(output.boxes, coder=None))
    with raises_config_error('box_weight', 4.0, 'cannot be decoded'):
        built(BCKD(), output, [output])
    built(BCKD(box_weight=0.0), output, [output])


def test_a_wrong_word_and_a_missing_assigner_are_refused() -> None:
    with raises_config_error('normalize', 'positive', fix='positives'):
        BCKD(normalize='positive')
    output = dense(0)
    output = replace(output, scores=replace(output.scores, assigned=None))
    with raises_config_error('normalize', 'positives', fix='confidence'):
        BCKD()(output, [output], None)
    BCKD(normalize='confidence')(output, [output], None)


@pytest.mark.parametrize('family', ['gfl', 'fcos', 'retinanet', 'atss', 'rtmdet', 'vfnet', 'yolof'])
def test_real_detector_learns_from_scores_and_boxes(tmp_path: Path, family: str) -> None:
    found: dict[str, Any] = {}
    detector = families.detector(family)
    teacher = small.teacher(tmp_path, detector)
    for normalize in ('positives', 'confidence'):
        torch.manual_seed(0)  # of layers that are no plain convolution
        method = dict(type='BCKD', normalize=normalize)
        model = small.distiller(tmp_path, detector, [teacher], methods=dict(bckd=method)).train()
        found[normalize] = small.losses_of(model, families.batch_for(family))
    losses = found['positives']
    assert losses['bckd.loss_scores'] > 0 and losses['bckd.loss_boxes'] > 0
    # Both losses have one divisor.
    ratios = [losses[f'bckd.{name}'] / found['confidence'][f'bckd.{name}'] for name in LOSSES]
    assert ratios[0].item() == pytest.approx(ratios[1].item(), rel=1e-4) != pytest.approx(1)
    small.total(model, losses).backward()


@MODELS.register_module(force=True)
class PositiveCount(Method):
    """A metric: the number of positive locations."""

    def __init__(self) -> None:
        super().__init__()

    def requests(self, num_teachers: int) -> Requests:
        return Requests(teachers=((),) * num_teachers, scores=True, assigned=True)

    def forward(self, student: Any, teachers: Any, labels: Any) -> dict[str, torch.Tensor]:
        loss = (student.scores.logits - teachers[0].scores.logits).square().mean()
        return {'loss': loss, 'positives': count_positives(student.scores)}


@pytest.mark.parametrize('family', ['gfl', 'atss'])
def test_positives_are_those_that_divide_the_host_s_loss(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = families.detector(family)
    model = small.distiller(tmp_path, detector, methods=dict(m=dict(type='PositiveCount'))).train()
    noted = []
    kind = type(model.student.bbox_head)
    assign = kind.get_targets

    def get_targets(self: Any, *args: Any, **kwargs: Any) -> Any:
        noted.append(assign(self, *args, **kwargs))
        return noted[-1]

    monkeypatch.setattr(kind, 'get_targets', get_targets)
    found = small.losses_of(model, families.batch_for(family))
    assert found['m.positives'] == noted[0][-1] > 2


def test_detector_whose_deltas_mean_something_else_is_refused(tmp_path: Path) -> None:
    detector = families.detector('yolov3')
    with raises_config_error('methods.bckd.box_weight', 4.0, 'YOLOBBoxCoder'):
        small.distiller(tmp_path, detector, methods=dict(bckd=dict(type='BCKD')))


def test_head_that_assigns_in_another_way_needs_the_confidence(tmp_path: Path) -> None:
    detector = small.detector('yolox')
    model = small.distiller(tmp_path, detector, methods=dict(bckd=dict(type='BCKD'))).train()
    with raises_config_error('methods.bckd.normalize', 'positives', fix='confidence'):
        small.losses_of(model, small.batch_for('yolox'))
    method = dict(type='BCKD', normalize='confidence')
    model = small.distiller(tmp_path, detector, methods=dict(bckd=method)).train()
    losses = small.losses_of(model, small.batch_for('yolox'))
    assert losses['bckd.loss_scores'] > 0 and losses['bckd.loss_boxes'] > 0


def test_detector_without_readable_boxes_learns_from_scores_alone(tmp_path: Path) -> None:
    method = dict(type='BCKD', box_weight=0.0)
    model = small.distiller(tmp_path, families.detector('tood'), methods=dict(bckd=method)).train()
    losses = small.losses_of(model, families.batch_for('tood'))
    assert losses['bckd.loss_scores'] > 0
    assert 'bckd.loss_boxes' not in losses
