import math

import pytest
import torch

from mmkd_plugin.models.losses import DistanceLoss, distance_loss


def test_value_derived_by_hand() -> None:
    # Student: points 0, 1, 3 on a line, distances 1, 3, 2, mean 2, relative 1/2, 3/2, 1.
    # Teacher: an equilateral triangle, relative 1, 1, 1. Differences 1/2, 1/2, 0; Huber below delta is half the square.
    student = torch.tensor([[0.0], [1.0], [3.0]])
    teacher = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3.0)]])
    assert distance_loss(student, teacher).item() == pytest.approx((1 / 8 + 1 / 8 + 0) / 3)


def test_agrees_with_a_loop_in_float64() -> None:
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


def test_blind_to_scale_shift_and_rotation_of_either_network() -> None:
    student, teacher = (
        torch.randn(6, 4, dtype=torch.float64),
        torch.randn(6, 4, dtype=torch.float64),
    )
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    moved = 7.0 * student @ rotation + 3.0
    torch.testing.assert_close(distance_loss(moved, teacher), distance_loss(student, teacher))


def test_gradient_reaches_the_student_alone() -> None:
    student = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: distance_loss(s, teacher), (student,))
    distance_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('n', [1, 2, 5])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_when_all_images_look_alike(n: int, dtype: torch.dtype) -> None:
    student = torch.ones(n, 4, dtype=dtype, requires_grad=True)
    loss = distance_loss(student, torch.ones(n, 4, dtype=dtype))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None and student.grad.isfinite().all()


def test_shapes_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r'student \(4, 3\), teacher \(5, 3\)'):
        distance_loss(torch.randn(4, 3), torch.randn(5, 3))


def test_module_is_the_weighted_function() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(
        DistanceLoss(loss_weight=2.5)(student, teacher), 2.5 * distance_loss(student, teacher)
    )
