import math

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.losses import HintLoss, hint_loss


def test_value_derived_by_hand() -> None:
    # Differences 1, 2, 0 and 3: squares 1 + 4 + 0 + 9 = 14, over 4 elements.
    student, teacher = (
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[0.0, 0.0], [3.0, 1.0]]),
    )
    assert hint_loss(student, teacher).item() == 3.5
    assert hint_loss(student[None, None], teacher[None, None]).item() == 3.5


def test_the_larger_map_is_averaged_to_the_smaller() -> None:
    # The teacher's 2x4 map has the 2x2 block means (1 + 3 + 5 + 7) / 4 = 4 and 10. Against 3 and 8: (1 + 4) / 2.
    teacher = torch.tensor([[[[1.0, 3.0, 10.0, 10.0], [5.0, 7.0, 10.0, 10.0]]]])
    student = torch.tensor([[[[3.0, 8.0]]]])
    assert hint_loss(student, teacher).item() == 2.5
    assert hint_loss(teacher, student).item() == 2.5


def test_each_side_goes_to_the_shorter() -> None:
    # 2x1 against 1x2: both are averaged to 1x1, 2 and 5. Nothing is broadcast to 2x2.
    assert hint_loss(torch.tensor([[[[1.0], [3.0]]]]), torch.tensor([[[[4.0, 6.0]]]])).item() == 9.0


def test_agrees_with_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(2, 3, 2, 2, dtype=torch.float64),
        torch.randn(2, 3, 5, 4, dtype=torch.float64),
    )

    def pooled(
        n: int, c: int, y: int, x: int
    ) -> float:  # rows 0-2 and 2-4 of the 5: adaptive windows overlap
        rows, columns = ((0, 3), (2, 5))[y], ((0, 2), (2, 4))[x]
        window = [teacher[n, c, i, j].item() for i in range(*rows) for j in range(*columns)]
        return sum(window) / len(window)

    places = [(n, c, y, x) for n in range(2) for c in range(3) for y in range(2) for x in range(2)]
    expected = sum((student[place].item() - pooled(*place)) ** 2 for place in places) / len(places)
    assert hint_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_zero_for_equal_maps_and_blind_to_the_order_of_images_and_channels() -> None:
    student, teacher = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    images, channels = torch.randperm(4), torch.randperm(3)
    assert hint_loss(student, student).item() == 0.0
    moved = hint_loss(student[images][:, channels], teacher[images][:, channels])
    torch.testing.assert_close(moved, hint_loss(student, teacher))


@pytest.mark.parametrize(
    'shapes', [((1, 3), (1, 3)), ((1, 2, 4, 4), (1, 2, 2, 2)), ((2, 2, 2, 3), (2, 2, 4, 2))]
)
def test_gradient_reaches_the_student_alone(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    student, teacher = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    assert torch.autograd.gradcheck(lambda s: hint_loss(s, teacher), (student,))
    hint_loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('size', [2, 4])
def test_narrow_inputs_are_computed_in_float32(dtype: torch.dtype, size: int) -> None:
    # 400 squared is no float16.
    student = torch.full((1, 2, 4, 4), 400.0, dtype=dtype, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = hint_loss(student, torch.zeros(1, 2, size, size, dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == 160000.0
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        ((4, 3, 2, 2), (4, 1, 2, 2)),  # would broadcast
        ((4, 3, 2, 2), (4, 5, 4, 4)),
        ((1, 3, 2, 2), (4, 3, 2, 2)),
        ((4, 3, 1, 1), (4, 3)),
        ((4, 3), (4, 1)),
        ((4, 3, 2), (4, 3, 2)),
    ],
)
def test_shapes_are_named_in_the_error(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='same N and C: got student') as error:
        hint_loss(torch.randn(student), torch.randn(teacher))
    assert str(error.value).endswith(f'got student {student}, teacher {teacher}')


@pytest.mark.parametrize('loss_weight', [-1.0, math.nan])
def test_a_negative_weight_is_refused(loss_weight: float) -> None:
    with pytest.raises(ValueError, match='loss_weight: expected a number >= 0, got'):
        HintLoss(loss_weight=loss_weight)


def test_module_is_the_weighted_function() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(
        HintLoss(loss_weight=2.5)(student, teacher), 2.5 * hint_loss(student, teacher)
    )
    assert isinstance(HintLoss()(student, teacher), Tensor)
