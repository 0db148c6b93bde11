import math

import pytest
import torch

from mmkd_plugin.models.losses import ReconstructionLoss, reconstruction_loss, relative_error
from mmkd_plugin.models.losses.reconstruction import DISTANCES
from mmkd_plugin.registry import MODELS


def test_value_derived_by_hand() -> None:
    # Errors 1, -2, 0 and 3: absolute 6, squared 14, over 4 elements.
    reconstruction, target = (
        torch.tensor([[1.0, 0.0], [3.0, 4.0]]),
        torch.tensor([[0.0, 2.0], [3.0, 1.0]]),
    )
    assert reconstruction_loss(reconstruction, target).item() == 1.5
    assert reconstruction_loss(reconstruction[None, None], target[None, None], 'l2').item() == 3.5


def test_relative_error_derived_by_hand() -> None:
    # The error (0, 3) over the map (4, 3): 3 of 5. Nothing to reconstruct, and nothing said, is no error.
    target = torch.tensor([[4.0, 3.0]])
    reconstruction = torch.tensor([[4.0, 0.0]], requires_grad=True)
    error = relative_error(reconstruction, target)
    assert error.item() == pytest.approx(0.6)
    assert not error.requires_grad
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 0.0
    assert relative_error(reconstruction.bfloat16(), target.bfloat16()).dtype == torch.float32


def test_agrees_with_a_loop_in_float64() -> None:
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
def test_zero_for_equal_maps_and_blind_to_a_common_shift_and_to_order(distance: str) -> None:
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
def test_gradient_reaches_the_reconstruction_alone(shape: tuple[int, ...], distance: str) -> None:
    reconstruction, target = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    assert torch.autograd.gradcheck(
        lambda r: reconstruction_loss(r, target, distance), (reconstruction,)
    )
    reconstruction_loss(reconstruction, target, distance).backward()
    assert target.grad is None


@pytest.mark.parametrize(('distance', 'expected'), [('l1', 400.0), ('l2', 160000.0)])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_computed_in_float32(
    dtype: torch.dtype, distance: str, expected: float
) -> None:
    # 400 squared is no float16.
    reconstruction = torch.full((1, 2, 4, 4), 400.0, dtype=dtype, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = reconstruction_loss(reconstruction, torch.zeros(1, 2, 4, 4, dtype=dtype), distance)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == expected
    assert reconstruction.grad is not None and reconstruction.grad.isfinite().all()


@pytest.mark.parametrize('distance', DISTANCES)
def test_constant_maps_have_a_finite_gradient(distance: str) -> None:
    reconstruction = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = reconstruction_loss(reconstruction, torch.zeros(1, 2, 2, 2), distance)
    loss.backward()
    assert loss.item() == 0.0
    assert reconstruction.grad is not None and (reconstruction.grad == 0.0).all()


@pytest.mark.parametrize(
    ('reconstruction', 'target'),
    [
        ((4, 3, 2, 2), (4, 1, 2, 2)),  # would broadcast
        ((4, 3, 2, 2), (4, 3, 4, 4)),  # is not pooled: no decoder changes the size
        ((4, 3), (1, 3)),
        ((4, 3, 2), (4, 3, 2)),
    ],
)
def test_shapes_are_named_in_the_error(
    reconstruction: tuple[int, ...], target: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r'^reconstruction_loss compares') as error:
        reconstruction_loss(torch.randn(reconstruction), torch.randn(target))
    assert str(error.value).endswith(f'got reconstruction {reconstruction}, target {target}')


def test_distance_must_be_known() -> None:
    with pytest.raises(ValueError, match="distance: expected one of 'l1', 'l2', got 'cosine'"):
        reconstruction_loss(torch.randn(2, 3), torch.randn(2, 3), 'cosine')
    with pytest.raises(ValueError, match="distance: expected one of 'l1', 'l2', got 'cosine'"):
        ReconstructionLoss(distance='cosine')


@pytest.mark.parametrize('loss_weight', [-1.0, math.nan])
def test_a_negative_weight_is_refused(loss_weight: float) -> None:
    with pytest.raises(ValueError, match='loss_weight: expected a number >= 0, got'):
        ReconstructionLoss(loss_weight=loss_weight)


def test_module_is_the_weighted_function() -> None:
    reconstruction, target = torch.randn(4, 3), torch.randn(4, 3)
    module = MODELS.build(dict(type='ReconstructionLoss', loss_weight=2.5, distance='l2'))
    torch.testing.assert_close(
        module(reconstruction, target), 2.5 * reconstruction_loss(reconstruction, target, 'l2')
    )
