import math

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.losses import dist_loss
from mmkd_plugin.models.losses.dist import dist_correlation


def pearson(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread = sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)
    return covariance / math.sqrt(spread)


def softened(logits: Tensor, temperature: float, activation: str = 'softmax') -> list[list[float]]:
    if activation == 'sigmoid':
        return [[1 / (1 + math.exp(-z / temperature)) for z in row] for row in logits.tolist()]
    rows = [[math.exp(z / temperature) for z in row] for row in logits.tolist()]
    return [[e / sum(row) for e in row] for row in rows]


def columns(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def test_dist_loss_has_the_value_derived_by_hand() -> None:
    # Rows (.5, .3, .2) and (.2, .3, .5). The teacher swaps the first two classes of the first row:
    # deviations (1, -.2, -.8)/6 . (-.2, 1, -.8)/6; (1 * -.2 - .2 + .64) / (1 + .04 + .64) = 1/7.
    # The second row is equal: the mean is 4/7.
    student = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.3, 0.5, 0.2], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
    assert dist_loss(student, teacher, intra_weight=0.0).item() == pytest.approx(3 / 7)
    # Two images: a column's correlation is 1, -1, or 0 where it is constant: 1, 0 (.3, .3), 1.
    assert dist_loss(student, teacher, inter_weight=0.0).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('weights', [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])
def test_dist_loss_equals_a_loop_in_float64(
    temperature: float, weights: tuple[float, float], activation: str
) -> None:
    student, teacher = 3 * torch.randn(2, 6, 5, dtype=torch.float64)
    own, other = (softened(x, temperature, activation) for x in (student, teacher))
    rows = [pearson(a, b) for a, b in zip(own, other, strict=True)]
    lines = [pearson(a, b) for a, b in zip(columns(own), columns(other), strict=True)]
    expected = weights[0] * (1 - sum(rows) / 6) + weights[1] * (1 - sum(lines) / 5)
    found = dist_loss(student, teacher, temperature, *weights, activation=activation)
    assert found.item() == pytest.approx(temperature**2 * expected, rel=1e-10)


def test_dist_loss_gradient_matches_finite_differences() -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(4, dtype=torch.float64)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return dist_correlation(student, teacher, 1.0, 2.0, weights)

    assert torch.autograd.gradcheck(loss, (student, teacher))
    assert torch.autograd.gradcheck(lambda x: dist_loss(x, teacher, 2.0), (student,))
    sigmoid = dict(activation='sigmoid')
    assert torch.autograd.gradcheck(lambda x: dist_loss(x, teacher, 2.0, **sigmoid), (student,))


def test_dist_loss_is_zero_for_probabilities_that_differ_by_shift_and_scale_of_all() -> None:
    # p' = 1/K + c (p - 1/K) is an affine map of rows and of columns.
    teacher = torch.randn(5, 4, dtype=torch.float64)
    probabilities = teacher.softmax(1)
    student = (0.25 + 0.3 * (probabilities - 0.25)).log()
    assert dist_loss(student, teacher).item() == pytest.approx(0.0, abs=1e-12)
    # In the other direction both correlations are -1.
    student = (0.25 - 0.3 * (probabilities - 0.25)).log()
    assert dist_loss(student, teacher).item() == pytest.approx(4.0)


def test_dist_loss_is_invariant_to_a_shift_of_logits_and_to_order() -> None:
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    loss, order = dist_loss(student, teacher, 2.0), torch.randperm(4)
    shift = torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(dist_loss(student + shift, teacher - 2 * shift, 2.0), loss)
    torch.testing.assert_close(dist_loss(student[:, order], teacher[:, order], 2.0), loss)
    images = torch.randperm(5)
    torch.testing.assert_close(dist_loss(student[images], teacher[images], 2.0), loss)


def test_dist_correlation_with_weights_counts_rows_as_frequencies() -> None:
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    counts = torch.tensor([2, 1, 3, 1])
    repeated = (x.repeat_interleave(counts, dim=0) for x in (student, teacher))
    expected = dist_correlation(*repeated, 1.0, 2.0)
    found = dist_correlation(student, teacher, 1.0, 2.0, weights=counts / 70)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('classes', [1, 5])
@pytest.mark.parametrize('images', [0, 1])
def test_dist_loss_of_fewer_than_two_images_is_zero_with_a_graph(images: int, classes: int) -> None:
    student = torch.randn(images, classes, requires_grad=True)
    loss = dist_loss(student, torch.randn(images, classes))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None and not student.grad.any()


@pytest.mark.parametrize('classes', [1, 2, 6])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_dist_loss_of_large_logits_is_finite(dtype: torch.dtype, classes: int) -> None:
    student, teacher = (1e4 * torch.randn(2, 5, classes).sign()).to(dtype)
    student.requires_grad_()
    loss = dist_loss(student, teacher)
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32
    assert student.grad is not None and student.grad.isfinite().all()


def test_dist_loss_of_a_class_of_tiny_probabilities_is_exact_in_float32() -> None:
    # Class 2 has probabilities near 1e-6; a constant beside the norms would hide its correlation.
    student, teacher = torch.randn(2, 8, 3)
    for logits in (student, teacher):
        logits[:, 2] -= 14
    expected = dist_loss(student.double(), teacher.double()).item()
    assert dist_loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)
