import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.outputs import ClassScores, NetworkOutput, score_rows

#: Two locations of one anchor, as many as the tests below mostly have.
TWO = ((1, 2, 1),)


def dense(logits: Tensor, activation: str = 'sigmoid', **extra: Any) -> NetworkOutput:
    """Outputs of a dense detector, one row of locations unless ``levels`` are given."""
    levels = extra.pop('levels', ((1, logits.shape[1], 1),))
    return NetworkOutput(ClassScores(logits, activation, levels=levels, **extra))


def test_rows_are_the_locations_that_count_each_with_its_image() -> None:
    # Probabilities are 1/2 and 3/4 where the teacher shows an object, and 1/101 elsewhere.
    low, half, most = -math.log(100.0), 0.0, math.log(3.0)
    teacher = torch.tensor([[[low, half], [low, low]], [[low, low], [most, low]]])
    student = torch.arange(8.0).view(2, 2, 2)
    rows = score_rows(dense(student), [dense(teacher)], LocationWeights())
    assert rows.images.tolist() == [0, 1]
    assert rows.student.tolist() == [[0.0, 1.0], [6.0, 7.0]]
    torch.testing.assert_close(rows.teachers, torch.tensor([[[low, half]], [[most, low]]]))
    torch.testing.assert_close(rows.confidence, torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(rows.weights, torch.tensor([0.4, 0.6]))
    mixed = rows.mixture(torch.tensor([[1.0], [0.5]]))
    torch.testing.assert_close(mixed, torch.tensor([[1 / 101, 1 / 2], [3 / 8, 1 / 202]]))


def test_rows_of_a_classifier_are_its_images() -> None:
    student, one, other = torch.randn(3, 4, 5)
    outputs = [NetworkOutput(ClassScores.of_images(x)) for x in (student, one, other)]

    def no_locations(confidence: Tensor, valid: Tensor | None) -> Tensor:
        raise AssertionError('a classifier has no locations to weigh')

    rows = score_rows(outputs[0], outputs[1:], no_locations)
    assert torch.equal(rows.student, student)
    assert torch.equal(rows.teachers, torch.stack([one, other], dim=1))
    assert rows.images is rows.weights is rows.confidence is None
    assert rows.activation == 'softmax'
    weights = torch.tensor([[0.25, 0.75]]).expand(4, 2)
    expected = 0.25 * (one / 2).softmax(dim=1) + 0.75 * (other / 2).softmax(dim=1)
    torch.testing.assert_close(rows.mixture(weights, temperature=2.0), expected)


def test_rows_most_confident_teacher_decides_what_is_background() -> None:
    quiet, confident = torch.full((1, 2, 1), -9.0), torch.tensor([[[-9.0], [2.0]]])
    rows = score_rows(dense(quiet), [dense(quiet), dense(confident)], LocationWeights())
    assert len(rows.student) == 1
    assert rows.teachers[0].flatten().tolist() == [-9.0, 2.0]


@pytest.mark.parametrize(
    ('activation', 'background', 'confidence', 'classes'),
    [('softmax', True, 0.1, 2), ('softmax', False, 0.8, 3), ('sigmoid', False, 8 / 9, 3)],
)
def test_confidence_is_that_of_a_class_and_never_of_the_background(
    activation: str, background: bool, confidence: float, classes: int
) -> None:
    logits = torch.tensor([[[0.0, 0.0, math.log(8.0)]]])  # probabilities 1/10, 1/10, 8/10
    one = dense(logits, activation, background=background)
    rows = score_rows(one, [one], LocationWeights('uniform'))
    assert rows.confidence.item() == pytest.approx(confidence)
    assert one.scores.num_classes == classes


def test_rows_levels_of_differently_padded_images_are_cut_to_the_common_area() -> None:
    """Two anchors; the student's first level is 2 x 3, the teacher's 3 x 2, from the top left."""
    own = torch.arange(2 * 3 * 2.0).view(1, 2, 3, 2)
    other = torch.arange(100.0, 100 + 3 * 2 * 2).view(1, 3, 2, 2)
    second = torch.tensor([[[7.0], [8.0]]])
    columns = torch.tensor([True, True, False]).view(1, 1, 3, 1).expand(1, 2, 3, 2)
    valid = torch.cat([columns.reshape(1, -1), torch.ones(1, 2, dtype=torch.bool)], dim=1)
    student = dense(
        torch.cat([own.reshape(1, -1, 1), second], dim=1),
        levels=((2, 3, 2), (1, 1, 2)),
        valid=valid,
    )
    teacher = dense(
        torch.cat([other.reshape(1, -1, 1), -second], dim=1), levels=((3, 2, 2), (1, 1, 2))
    )
    rows = score_rows(student, [teacher], LocationWeights('uniform'))
    assert rows.student.flatten().tolist() == [*own[0, :, :2].flatten().tolist(), 7.0, 8.0]
    assert rows.teachers.flatten().tolist() == [*other[0, :2].flatten().tolist(), -7.0, -8.0]
    assert rows.weights.tolist() == pytest.approx([0.1] * 10)


@pytest.mark.parametrize('make', [dense, lambda x: NetworkOutput(ClassScores.of_images(x[:, 0]))])
def test_rows_are_in_float32_and_without_gradient_of_the_teachers(make: Any) -> None:
    student, teacher = (torch.randn(2, 6, 3).bfloat16().requires_grad_() for _ in range(2))
    rows = score_rows(make(student), [make(teacher)], LocationWeights('uniform'))
    assert rows.student.dtype == rows.teachers.dtype == torch.float32
    assert rows.student.requires_grad and not rows.teachers.requires_grad
    wide = score_rows(make(student.double()), [make(teacher.double())], LocationWeights('uniform'))
    assert wide.student.dtype == torch.float64


def test_rows_of_a_network_without_scores_are_an_error() -> None:
    scores = NetworkOutput(ClassScores.of_images(torch.zeros(1, 2)))
    for student, teachers in ((NetworkOutput(), [scores]), (scores, [NetworkOutput()])):
        with pytest.raises(ValueError, match='class scores were not requested'):
            score_rows(student, teachers, LocationWeights())


def test_with_classes_chooses_columns_and_keeps_the_background() -> None:
    scores = ClassScores(torch.arange(8.0).view(1, 2, 4), 'softmax', background=True, levels=TWO)
    mapped = scores.with_classes([2, 0])
    assert mapped.logits.tolist() == [[[2.0, 0.0, 3.0], [6.0, 4.0, 7.0]]]
    assert (mapped.num_classes, mapped.background, mapped.levels) == (2, True, TWO)
    mapped = ClassScores(torch.arange(4.0).view(1, 1, 4), 'sigmoid').with_classes([3, 1])
    assert mapped.logits.tolist() == [[[3.0, 1.0]]]


@pytest.mark.parametrize(
    ('scores', 'per_image', 'text'),
    [
        (
            ClassScores.of_images(torch.zeros(2, 3)),
            True,
            '3 classes, softmax, one location an image',
        ),
        (
            ClassScores(torch.zeros(2, 2, 3), 'sigmoid', levels=TWO),
            False,
            '3 classes, sigmoid, 1 levels of (rows x columns x anchors) 1x2x1',
        ),
        (
            ClassScores(torch.zeros(2, 4, 3), background=True, rois=(torch.zeros(5, 5),) * 2),
            False,
            "2 classes, softmax with background, 2 stage(s) of the student's regions",
        ),
    ],
)
def test_text_of_class_scores_is_their_layout(
    scores: ClassScores, per_image: bool, text: str
) -> None:
    assert scores.per_image is per_image
    assert str(scores) == text


def test_detach_keeps_all_but_the_gradient() -> None:
    logits = torch.zeros(2, 2, 3, requires_grad=True)
    valid = torch.ones(2, 2, dtype=torch.bool)
    scores = ClassScores(logits, 'sigmoid', levels=TWO, valid=valid)
    one = NetworkOutput(scores, {'neck': logits * 2}).detach()
    assert not one.scores.logits.requires_grad and not one.feature('neck').requires_grad
    assert (one.scores.activation, one.scores.levels) == ('sigmoid', TWO)
    assert one.scores.valid is valid
    assert NetworkOutput().detach().scores is None


def test_feature_that_was_not_requested_is_an_error_with_those_that_were() -> None:
    one = NetworkOutput(features={'neck': torch.zeros(1), 'head': torch.zeros(1)})
    with pytest.raises(KeyError, match=r"'body' was not requested.*'neck', 'head'"):
        one.feature('body')


def test_rois_are_those_of_the_scores() -> None:
    regions = (torch.zeros(3, 5), torch.zeros(1, 5))
    assert NetworkOutput(ClassScores(torch.zeros(1, 4, 2), rois=regions)).rois is regions
    assert NetworkOutput().rois == ()
