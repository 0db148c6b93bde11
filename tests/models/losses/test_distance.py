import math

import pytest
import torch

from mmkd_plugin.models.losses import distance_loss


def test_distance_loss_has_the_value_derived_by_hand() -> None:
    # Student: points 0, 1, 3 on a line, distances 1, 3, 2, mean 2, relative 1/2, 3/2, 1. Teacher:
    # an equilateral triangle, relative 1, 1, 1. Differences 1/2, 1/2, 0; Huber below delta is half
    # the square.
    student = torch.tensor([[0.0], [1.0], [3.0]])
    teacher = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3.0)]])
    assert distance_loss(student, teacher).item() == pytest.approx((1 / 8 + 1 / 8 + 0) / 3)


def test_distance_loss_beyond_delta_is_linear() -> None:
    # As above, but 1/2 lies beyond delta = 1/4: 1/4 * (1/2 - 1/8) = 3/32.
    student = torch.tensor([[0.0], [1.0], [3.0]])
    teacher = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3.0)]])
    loss = distance_loss(student, teacher, delta=0.25)
    assert loss.item() == pytest.approx((3 / 32 + 3 / 32 + 0) / 3)


def test_distance_loss_equals_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(7, 5, dtype=torch.float64),
        torch.randn(7, 3, dtype=torch.float64),
    )

    def relative(x: torch.Tensor) -> dict[tuple[int, int], float]:
        pairs = {(i, j): float((x[i] - x[j]).norm()) for i in range(7) for j in range(7) if i != j}
        mean = sum(pairs.values()) / len(pairs)
        return {pair: d / mean for pair, d in pairs.items()}

    def huber(d: float) -> float:
        return 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5

    s, t = relative(student), relative(teacher)
    expected = sum(huber(s[pair] - t[pair]) for pair in s) / len(s)
    assert distance_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_distance_loss_is_invariant_to_scale_shift_and_rotation() -> None:
    student, teacher = (
        torch.randn(6, 4, dtype=torch.float64),
        torch.randn(6, 4, dtype=torch.float64),
    )
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    moved = 7.0 * student @ rotation + 3.0
    loss = distance_loss(student, teacher)
    torch.testing.assert_close(distance_loss(moved, teacher), loss)
    torch.testing.assert_close(distance_loss(student, teacher @ rotation / 9.0 - 2.0), loss)


def test_distance_loss_gradient_matches_finite_differences() -> None:
    student = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: distance_loss(s, teacher), (student,))


@pytest.mark.parametrize('n', [1, 2, 5])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_distance_loss_of_equal_images_is_zero_with_a_finite_gradient(
    n: int, dtype: torch.dtype
) -> None:
    student = torch.ones(n, 4, dtype=dtype, requires_grad=True)
    loss = distance_loss(student, torch.ones(n, 4, dtype=dtype))
    loss.backward()
    assert loss.item() == 0.0 and loss.dtype == torch.float32
    assert student.grad is not None and student.grad.isfinite().all()
