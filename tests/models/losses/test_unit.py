import pytest
import torch

from mmkd_plugin.models.losses.unit import NO_DIRECTION, inverse_norm, unit_difference


def test_value_derived_by_hand() -> None:
    # (3, 4) has norm 5, (0, -2) norm 2: (0.6, 0.8) - (0, -1) = (0.6, 1.8).
    difference = unit_difference(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -2.0]]))
    torch.testing.assert_close(difference, torch.tensor([[0.6, 1.8]]))


@pytest.mark.parametrize('shape', [(1, 1), (3, 7), (2, 3, 4, 5)])
def test_norm_is_over_all_of_an_image(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    expected = [
        1.0 / sum(value * value for value in image.flatten().tolist()) ** 0.5 for image in x
    ]
    assert inverse_norm(x).flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert inverse_norm(x).shape == (shape[0], *[1] * (len(shape) - 1))


def test_of_a_map_of_detection_it_is_within_1e_6_of_float64() -> None:
    x = torch.randn(1, 256, 50, 84)
    torch.testing.assert_close(
        inverse_norm(x).double(), inverse_norm(x.double()), rtol=1e-6, atol=0.0
    )


def test_the_inputs_are_not_written_to() -> None:
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    kept = student.clone(), teacher.clone()
    unit_difference(student, teacher)
    assert torch.equal(student, kept[0]) and torch.equal(teacher, kept[1])


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 2, 2)])
def test_zero_norm_stays_zero_without_gradient_beside_an_image_that_has_one(
    shape: tuple[int, ...],
) -> None:
    student = torch.randn(shape)
    student[0] = 0.0
    student.requires_grad_()
    unit_difference(student, torch.zeros(shape)).square()[:, 0].sum().backward()
    assert inverse_norm(student).flatten()[0].item() == 0.0
    assert (
        student.grad is not None
        and (student.grad[0] == 0.0).all()
        and (student.grad[1] != 0.0).any()
    )


def test_finite_just_above_no_direction() -> None:
    student = torch.full((1, 4), NO_DIRECTION).requires_grad_()  # norm 2e-12
    unit_difference(student, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))[0, 0].backward()
    # d u_0 / d x_i = (1[i=0] - u_0 u_i) / norm = (1[i=0] - 1/4) / 2e-12.
    torch.testing.assert_close(
        student.grad, torch.tensor([[0.75, -0.25, -0.25, -0.25]]) / (2.0 * NO_DIRECTION)
    )


def test_nan_is_not_hidden() -> None:
    assert unit_difference(torch.tensor([[torch.nan, 1.0]]), torch.ones(1, 2)).isnan().all()
