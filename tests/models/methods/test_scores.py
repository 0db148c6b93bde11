import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.methods import SoftTarget
from mmkd_plugin.models.methods.locations import Locations
from mmkd_plugin.models.methods.scores import classes_of, compared_scores, foreground, logits_of
from mmkd_plugin.outputs import ClassScores, Knowledge


def said(logits: Tensor, activation: str = 'sigmoid', **extra: Any) -> Knowledge:
    return Knowledge(ClassScores(logits, activation, **extra))


def test_only_places_that_teach_are_compared_each_with_its_image() -> None:
    # Probabilities 1/2 and 3/4 where the teacher sees something, 1/101 where not.
    low, half, most = -math.log(100.0), 0.0, math.log(3.0)
    taught = torch.tensor([[[low, half], [low, low]], [[low, low], [most, low]]])
    own = torch.arange(8.0).view(2, 2, 2)
    scores = compared_scores(said(own), [said(taught)], Locations())
    assert scores.images.tolist() == [0, 1]
    assert scores.student.tolist() == [[0.0, 1.0], [6.0, 7.0]]
    torch.testing.assert_close(scores.teachers, torch.tensor([[[low, half]], [[most, low]]]))
    torch.testing.assert_close(scores.confidence, torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(scores.weights, torch.tensor([0.4, 0.6]))
    mixed = scores.mixture(torch.tensor([[1.0], [0.5]]))
    torch.testing.assert_close(mixed, torch.tensor([[1 / 101, 1 / 2], [3 / 8, 1 / 202]]))


def test_the_surest_teacher_decides_what_is_background() -> None:
    quiet, sure = torch.full((1, 2, 1), -9.0), torch.tensor([[[-9.0], [2.0]]])
    scores = compared_scores(said(quiet), [said(quiet), said(sure)], Locations())
    assert len(scores.student) == 1
    assert scores.teachers[0].flatten().tolist() == [-9.0, 2.0]


def test_background_is_no_foreground() -> None:
    logits = torch.tensor([[[0.0, 0.0, math.log(8.0)]]])  # probabilities 1/10, 1/10, 8/10
    assert foreground(ClassScores(logits, 'softmax')).item() == pytest.approx(0.1)
    assert foreground(ClassScores(logits, 'sigmoid')).item() == pytest.approx(8 / 9)
    assert classes_of(said(logits, 'softmax')) == 2
    assert classes_of(said(logits)) == 3


def test_levels_of_differently_padded_images_are_cut_to_what_both_have() -> None:
    """The student's first level has 2 rows and 3 columns, the teacher's 3 and 2; two anchors; both begin at the top left."""
    own = torch.arange(2 * 3 * 2.0).view(1, 2, 3, 2)
    other = torch.arange(100.0, 100 + 3 * 2 * 2).view(1, 3, 2, 2)
    second = torch.tensor([[[7.0], [8.0]]])
    valid = (
        torch.tensor([[True, True, False]])
        .expand(2, 3)
        .reshape(1, 2, 3, 1)
        .expand(1, 2, 3, 2)
        .reshape(1, -1)
    )
    valid = torch.cat([valid, torch.ones(1, 2, dtype=torch.bool)], dim=1)
    scores = compared_scores(
        said(
            torch.cat([own.reshape(1, -1, 1), second], dim=1),
            levels=((2, 3, 2), (1, 1, 2)),
            valid=valid,
        ),
        [said(torch.cat([other.reshape(1, -1, 1), -second], dim=1), levels=((3, 2, 2), (1, 1, 2)))],
        Locations('uniform'),
    )
    assert scores.student.flatten().tolist() == [*own[0, :, :2].flatten().tolist(), 7.0, 8.0]
    assert scores.teachers.flatten().tolist() == [*other[0, :2].flatten().tolist(), -7.0, -8.0]
    assert scores.weights.tolist() == pytest.approx([0.1] * 10)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('ensemble', ['arithmetic', 'geometric'])
def test_soft_targets_of_places_agree_with_a_loop_in_float64(
    activation: str, ensemble: str
) -> None:
    temperature, shape = 2.0, (2, 5, 3)
    own, *taught = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    valid = torch.rand(shape[:2]) > 0.3
    method = SoftTarget(
        temperature, loss_weight=0.5, ensemble=ensemble, locations=dict(background=0.4)
    )
    got = method(said(own, activation, valid=valid), [said(t, activation) for t in taught], None)[
        'loss_kd'
    ]

    def squash(z: Tensor) -> Tensor:
        return z.sigmoid() if activation == 'sigmoid' else z.softmax(dim=-1)

    total = weight_sum = 0.0
    for n in range(2):
        for a in range(5):
            columns = slice(None) if activation == 'sigmoid' else slice(0, 2)
            m = max(float(squash(t[n, a])[columns].max()) for t in taught)
            w = m * (m >= 0.4) * float(valid[n, a])
            softened = [t[n, a] / temperature for t in taught]
            p = (
                sum(squash(z) for z in softened) / 2
                if ensemble == 'arithmetic'
                else squash(sum(softened) / 2)
            )
            q = squash(own[n, a] / temperature)
            kl = (p * (p / q).log()).sum()
            if activation == 'sigmoid':
                kl = kl + ((1 - p) * ((1 - p) / (1 - q)).log()).sum()
            total, weight_sum = total + w * float(kl), weight_sum + w
    assert got.item() == pytest.approx(0.5 * temperature**2 * total / weight_sum, rel=1e-5)


def test_no_place_that_teaches_is_a_loss_of_zero_with_a_graph() -> None:
    own = torch.zeros(1, 4, 2, requires_grad=True)
    loss = SoftTarget()(said(own), [said(torch.full((1, 4, 2), -9.0))], None)['loss_kd']
    loss.backward()
    assert loss.item() == 0.0
    assert own.grad is not None and not own.grad.any()


def test_half_precision_is_compared_in_float32_and_no_gradient_reaches_a_teacher() -> None:
    own = torch.randn(2, 6, 3).bfloat16().requires_grad_()
    taught = torch.randn(2, 6, 3).bfloat16().requires_grad_()
    loss = SoftTarget()(said(own), [said(taught)], None)['loss_kd']
    loss.backward()
    assert loss.dtype == torch.float32
    assert own.grad is not None and own.grad.abs().sum() > 0
    assert taught.grad is None


def test_scores_of_images_are_no_detectors() -> None:
    with pytest.raises(
        ValueError, match=r'^logits: expected class scores of images, got a detector'
    ):
        logits_of(said(torch.zeros(1, 2, 3)))
    with pytest.raises(
        ValueError, match=r'^logits: expected class scores of images, got a network without'
    ):
        logits_of(Knowledge())


def test_mapped_classes_keep_the_background() -> None:
    scores = ClassScores(torch.arange(8.0).view(1, 2, 4), 'softmax').with_classes([2, 0])
    assert scores.logits.tolist() == [[[2.0, 0.0, 3.0], [6.0, 4.0, 7.0]]]
    assert ClassScores(torch.arange(4.0).view(1, 1, 4), 'sigmoid').with_classes(
        [3, 1]
    ).logits.tolist() == [[[3.0, 1.0]]]
