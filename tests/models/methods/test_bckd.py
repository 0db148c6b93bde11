from pathlib import Path

import pytest
import torch
from helpers.classification import built
from helpers.detection import batch_for, detector, distiller, losses_of, total
from helpers.errors import raises_config_error

from mmkd_plugin.models.methods import BCKD
from mmkd_plugin.outputs import BoxOutputs, ClassScores, NetworkOutput

LEVELS = ((2, 3, 1),)


def dense(seed: int, kind: str = 'distribution') -> NetworkOutput:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 6, 4, 5) if kind == 'distribution' else (2, 6, 4)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = values if kind == 'distribution' else values.abs()
    logits = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 3:] = False
    scores = ClassScores(logits, 'sigmoid', levels=LEVELS, valid=valid)
    return NetworkOutput(scores, boxes=BoxOutputs(values, kind, levels=LEVELS, valid=valid))


def side(values: torch.Tensor, kind: str) -> float:
    if kind == 'distance':
        return values.item()
    return sum(i * p for i, p in enumerate(values.softmax(0).tolist()))


@pytest.mark.parametrize('kind', ['distribution', 'distance'])
def test_losses_are_those_of_loops_over_locations(kind: str) -> None:
    student, teacher = dense(0, kind), dense(1, kind)
    scores = boxes = total_confidence = 0.0
    for n in range(2):
        for a in range(6 if n == 0 else 3):
            q = student.scores.logits[n, a].sigmoid().tolist()
            p = teacher.scores.logits[n, a].sigmoid().tolist()
            total_confidence += max(p) * (max(p) >= 0.05)
            for pc, qc in zip(p, q, strict=True):
                entropy = torch.nn.functional.binary_cross_entropy(
                    torch.tensor(qc), torch.tensor(pc)
                ).item()
                scores += abs(pc - qc) * entropy
            s, t = (
                [side(one.boxes.values[n, a, k], kind) for k in range(4)]
                for one in (student, teacher)
            )
            small = [min(x, y) for x, y in zip(s, t, strict=True)]
            large = [max(x, y) for x, y in zip(s, t, strict=True)]
            area, other, overlap, hull = (
                (b[0] + b[2]) * (b[1] + b[3]) for b in (s, t, small, large)
            )
            union = area + other - overlap
            giou = overlap / union - (hull - union) / hull
            boxes += max(abs(x - y) for x, y in zip(p, q, strict=True)) * (1 - giou)
    z = max(total_confidence, 1.0)
    losses = built(BCKD(), student, [teacher])(student, [teacher], None)
    assert losses['loss_scores'].item() == pytest.approx(scores / z, rel=1e-5)
    assert losses['loss_boxes'].item() == pytest.approx(4 * boxes / z, rel=1e-5)


def test_boxes_that_cannot_be_decoded_are_refused() -> None:
    output = dense(0, 'delta')
    with raises_config_error('box_weight', 4.0, 'cannot be decoded'):
        built(BCKD(), output, [output])


@pytest.mark.parametrize('family', ['gfl', 'fcos'])
def test_real_detector_learns_from_scores_and_boxes(tmp_path: Path, family: str) -> None:
    model = distiller(tmp_path, detector(family), methods=dict(bckd=dict(type='BCKD')))
    losses = losses_of(model, batch_for(family))
    assert losses['bckd.loss_scores'] > 0
    assert losses['bckd.loss_boxes'] > 0
    total(model, losses).backward()


def test_detector_of_deltas_learns_from_scores_alone(tmp_path: Path) -> None:
    method = dict(type='BCKD', box_weight=0.0)
    model = distiller(tmp_path, detector('retinanet'), methods=dict(bckd=method))
    losses = losses_of(model, batch_for('retinanet'))
    assert losses['bckd.loss_scores'] > 0
    assert 'bckd.loss_boxes' not in losses
