import pytest
import torch

from mmkd_plugin.models.losses import reconstruction_loss, relative_error
from mmkd_plugin.models.losses.reconstruction import DISTANCES


def test_reconstruction_loss_has_the_values_derived_by_hand() -> None:
    # Errors 1, -2, 0 and 3: absolute 6, squared 14, over 4 elements.
    reconstruction, target = (
        torch.tensor([[1.0, 0.0], [3.0, 4.0]]),
        torch.tensor([[0.0, 2.0], [3.0, 1.0]]),
    )
    assert reconstruction_loss(reconstruction, target).item() == 1.5
    assert reconstruction_loss(reconstruction[None, None], target[None, None], 'l2').item() == 3.5


def test_relative_error_has_the_value_derived_by_hand() -> None:
    # The error (0, 3) over the map (4, 3): 3 of 5. Zeros for zeros are no error.
    target = torch.tensor([[4.0, 3.0]])
    reconstruction = torch.tensor([[4.0, 0.0]], requires_grad=True)
    error = relative_error(reconstruction, target)
    assert error.item() == pytest.approx(0.6)
    assert not error.requires_grad
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 0.0
    assert relative_error(reconstruction.bfloat16(), target.bfloat16()).dtype == torch.float32


def test_reconstruction_loss_equals_a_loop_in_float64() -> None:
    reconstruction, target = (
        torch.randn(2, 3, 2, 4, dtype=torch.float64),
        torch.randn(2, 3, 2, 4, dtype=torch.float64),
    )
    errors = [
        a - b
        for a, b in zip(reconstruction.flatten().tolist(), target.flatten().tolist(), strict=True)
    ]
    l1, l2 = sum(abs(e) for e in errors) / 48, sum(e * e for e in errors) / 48
    losses = [
        reconstruction_loss(reconstruction, target, distance).item() for distance in ('l1', 'l2')
    ]
    assert losses == pytest.approx([l1, l2], rel=1e-12)


@pytest.mark.parametrize('distance', DISTANCES)
def test_reconstruction_loss_is_invariant_to_a_common_shift_and_to_order(distance: str) -> None:
    reconstruction, target = (
        torch.randn(4, 3, 2, 2, dtype=torch.float64),
        torch.randn(4, 3, 2, 2, dtype=torch.float64),
    )
    assert reconstruction_loss(target, target, distance).item() == 0.0
    images, channels = torch.randperm(4), torch.randperm(3)
    moved = reconstruction[images][:, channels] + 3.0, target[images][:, channels] + 3.0
    torch.testing.assert_close(
        reconstruction_loss(*moved, distance), reconstruction_loss(reconstruction, target, distance)
    )


@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('shape', [(1, 3), (1, 2, 2, 2), (3, 2, 4, 4)])
def test_reconstruction_loss_gradient_matches_finite_differences(
    shape: tuple[int, ...], distance: str
) -> None:
    reconstruction, target = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    reconstruction.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r: reconstruction_loss(r, target, distance), (reconstruction,)
    )


@pytest.mark.parametrize('distance', DISTANCES)
def test_reconstruction_loss_of_equal_constant_maps_has_no_gradient(distance: str) -> None:
    reconstruction = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = reconstruction_loss(reconstruction, torch.zeros(1, 2, 2, 2), distance)
    loss.backward()
    assert loss.item() == 0.0
    assert reconstruction.grad is not None and (reconstruction.grad == 0.0).all()
