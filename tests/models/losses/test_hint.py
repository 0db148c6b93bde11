import pytest
import torch

from mmkd_plugin.models.losses import hint_loss


def test_hint_loss_has_the_value_derived_by_hand() -> None:
    # Differences 1, 2, 0 and 3: squares 1 + 4 + 0 + 9 = 14, over 4 elements.
    student, teacher = (
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[0.0, 0.0], [3.0, 1.0]]),
    )
    assert hint_loss(student, teacher).item() == 3.5
    assert hint_loss(student[None, None], teacher[None, None]).item() == 3.5


def test_hint_loss_of_two_sizes_pools_the_larger_map() -> None:
    # The teacher's 2x4 map has the 2x2 block means (1 + 3 + 5 + 7) / 4 = 4 and 10. Against 3 and 8:
    # (1 + 4) / 2.
    teacher = torch.tensor([[[[1.0, 3.0, 10.0, 10.0], [5.0, 7.0, 10.0, 10.0]]]])
    student = torch.tensor([[[[3.0, 8.0]]]])
    assert hint_loss(student, teacher).item() == 2.5
    assert hint_loss(teacher, student).item() == 2.5


def test_hint_loss_of_two_sizes_pools_each_side() -> None:
    # 2x1 against 1x2: both are averaged to 1x1, 2 and 5. Nothing is broadcast to 2x2.
    assert hint_loss(torch.tensor([[[[1.0], [3.0]]]]), torch.tensor([[[[4.0, 6.0]]]])).item() == 9.0


def test_hint_loss_equals_a_loop_in_float64() -> None:
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

    locations = [
        (n, c, y, x) for n in range(2) for c in range(3) for y in range(2) for x in range(2)
    ]
    expected = sum(
        (student[location].item() - pooled(*location)) ** 2 for location in locations
    ) / len(locations)
    assert hint_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_hint_loss_is_invariant_to_the_order_of_images_and_channels() -> None:
    student, teacher = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    images, channels = torch.randperm(4), torch.randperm(3)
    assert hint_loss(student, student).item() == 0.0
    moved = hint_loss(student[images][:, channels], teacher[images][:, channels])
    torch.testing.assert_close(moved, hint_loss(student, teacher))


@pytest.mark.parametrize(
    'shapes', [((1, 3), (1, 3)), ((1, 2, 4, 4), (1, 2, 2, 2)), ((2, 2, 2, 3), (2, 2, 4, 2))]
)
def test_hint_loss_gradient_matches_finite_differences(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: hint_loss(s, teacher), (student,))
