import math

import pytest
import torch

from mmkd_plugin.models.losses import LogitMimicLoss, logit_mimic_loss


def test_value_derived_by_hand() -> None:
    # Differences (1, -2) and (0, 3): squared norms 5 and 9, mean 7, half of it 3.5.
    student, teacher = (
        torch.tensor([[2.0, -1.0], [4.0, 5.0]]),
        torch.tensor([[1.0, 1.0], [4.0, 2.0]]),
    )
    assert logit_mimic_loss(student, teacher).item() == 3.5


def test_agrees_with_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(5, 3, dtype=torch.float64),
        torch.randn(5, 3, dtype=torch.float64),
    )
    expected = sum(
        (student[n, c] - teacher[n, c]).item() ** 2 for n in range(5) for c in range(3)
    ) / (2 * 5)
    assert logit_mimic_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_sees_what_softmax_hides() -> None:
    # The paper's example: the same probabilities, 20 apart in each of three logits. 3 * 400 / 2 = 600.
    student, teacher = torch.tensor([[-10.0, 0.0, 10.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    torch.testing.assert_close(student.softmax(1), teacher.softmax(1))
    assert logit_mimic_loss(student, teacher).item() == 600.0


def test_blind_to_a_common_shift_and_the_order_of_images() -> None:
    student, teacher = (
        torch.randn(6, 4, dtype=torch.float64),
        torch.randn(6, 4, dtype=torch.float64),
    )
    order = torch.randperm(6)
    moved = logit_mimic_loss(student[order] + 3.0, teacher[order] + 3.0)
    torch.testing.assert_close(moved, logit_mimic_loss(student, teacher))
    assert logit_mimic_loss(student, student).item() == 0.0


@pytest.mark.parametrize('n', [1, 5])
def test_gradient_reaches_the_student_alone(n: int) -> None:
    student = torch.randn(n, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(n, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: logit_mimic_loss(s, teacher), (student,))
    logit_mimic_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    # 400 squared, times 5 logits, is no float16: (5 * 160000) / 2 = 400000 would be infinite.
    student = torch.full((2, 5), 400.0, dtype=dtype, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = logit_mimic_loss(student, torch.zeros(2, 5, dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == 400000.0
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        ((4, 3), (4, 1), r'student \(4, 3\), teacher \(4, 1\)'),
        ((4,), (4,), r'student \(4,\), teacher \(4,\)'),
    ],
)
def test_shapes_are_named_in_the_error(
    student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        logit_mimic_loss(torch.randn(student), torch.randn(teacher))


@pytest.mark.parametrize('loss_weight', [-1.0, math.nan])
def test_a_negative_weight_is_refused(loss_weight: float) -> None:
    with pytest.raises(ValueError, match='loss_weight: expected a number >= 0, got'):
        LogitMimicLoss(loss_weight=loss_weight)


def test_module_is_the_weighted_function() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    expected = 2.5 * logit_mimic_loss(student, teacher)
    torch.testing.assert_close(LogitMimicLoss(loss_weight=2.5)(student, teacher), expected)


def test_rows_may_count_differently() -> None:
    # Half the squares: 1/2 * 4 and 1/2 * 9, weighed by 3 and 1/3.
    loss = logit_mimic_loss(
        torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [3.0]]), torch.tensor([3.0, 1 / 3])
    )
    assert loss.item() == pytest.approx(3 * 2.0 + 4.5 / 3)
