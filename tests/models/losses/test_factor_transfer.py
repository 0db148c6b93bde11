import math

import pytest
import torch

from mmkd_plugin.models.losses import FactorTransferLoss, factor_transfer_loss
from mmkd_plugin.registry import MODELS


def test_value_derived_by_hand() -> None:
    # (3, 4) over 5 is (.6, .8), (0, 2) over 2 is (0, 1): (.6 + .2) / 2 elements. The second image agrees: the mean is halved.
    student, teacher = (
        torch.tensor([[3.0, 4.0], [1.0, 1.0]]),
        torch.tensor([[0.0, 2.0], [5.0, 5.0]]),
    )
    assert factor_transfer_loss(student, teacher).item() == pytest.approx(0.2)


def test_agrees_with_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(2, 3, 2, 2, dtype=torch.float64),
        torch.randn(2, 3, 2, 2, dtype=torch.float64),
    )
    expected = 0.0
    for s_map, t_map in zip(student, teacher, strict=True):
        s, t = s_map.flatten().tolist(), t_map.flatten().tolist()
        expected += sum(
            abs(a / math.hypot(*s) - b / math.hypot(*t)) for a, b in zip(s, t, strict=True)
        ) / (2 * 12)
    assert factor_transfer_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_zero_for_equal_factors_and_blind_to_their_scales() -> None:
    student, teacher = (
        torch.randn(3, 2, 2, 2, dtype=torch.float64),
        torch.randn(3, 2, 2, 2, dtype=torch.float64),
    )
    assert factor_transfer_loss(5.0 * teacher, teacher).item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(
        factor_transfer_loss(5.0 * student, teacher / 3.0), factor_transfer_loss(student, teacher)
    )


@pytest.mark.parametrize('shapes', [((1, 4), (1, 4)), ((2, 2, 4, 4), (2, 2, 2, 2))])
def test_gradient_reaches_the_student_alone(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    student, teacher = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    assert torch.autograd.gradcheck(lambda s: factor_transfer_loss(s, teacher), (student,))
    factor_transfer_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    # Norms 1200 and 2: 1/3 a side of 9 elements, against (1, 0, ..., 0): (2/3 + 8/3) / 9.
    student = torch.full((1, 9), 400.0, dtype=dtype, requires_grad=True)
    teacher = torch.zeros(1, 9, dtype=dtype)
    teacher[0, 0] = 2.0
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = factor_transfer_loss(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(10 / 27, rel=1e-6)
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize('n', [1, 2])
def test_zero_norm_is_finite_and_has_no_gradient(n: int) -> None:
    # The teacher's (1, 1, 1, 1) over 2 is 1/2 everywhere, the student's factor stays zero.
    student = torch.zeros(n, 1, 2, 2, requires_grad=True)
    loss = factor_transfer_loss(student, torch.ones(n, 1, 2, 2))
    loss.backward()
    assert loss.item() == 0.5
    assert student.grad is not None and (student.grad == 0.0).all()


@pytest.mark.parametrize(('student', 'teacher'), [((4, 3, 2, 2), (4, 1, 2, 2)), ((4, 3), (2, 3))])
def test_shapes_are_named_in_the_error(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='same N and C: got student') as error:
        factor_transfer_loss(torch.randn(student), torch.randn(teacher))
    assert str(error.value).endswith(f'got student {student}, teacher {teacher}')


@pytest.mark.parametrize('loss_weight', [-1.0, math.nan])
def test_a_negative_weight_is_refused(loss_weight: float) -> None:
    with pytest.raises(ValueError, match='loss_weight: expected a number >= 0, got'):
        FactorTransferLoss(loss_weight=loss_weight)


def test_module_is_the_weighted_function() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    expected = 500.0 * factor_transfer_loss(student, teacher)
    module = MODELS.build(dict(type='FactorTransferLoss', loss_weight=500.0))
    torch.testing.assert_close(module(student, teacher), expected)
