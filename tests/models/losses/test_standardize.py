import math

import pytest
import torch

from mmkd_plugin.models.losses import standardize_logits


def test_standardize_logits_has_the_value_derived_by_hand() -> None:
    # Mean 3, deviations -2, 0, 2, sum of squares 8, over K - 1 = 2: the standard deviation is 2.
    found = standardize_logits(torch.tensor([[1.0, 3.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0, 1.0]]))


def test_standardize_logits_equals_a_loop_in_float64() -> None:
    logits = 5 * torch.randn(3, 2, 7, dtype=torch.float64)
    found = standardize_logits(logits)
    for n in range(3):
        for t in range(2):
            row = logits[n, t].tolist()
            mean = sum(row) / 7
            deviation = math.sqrt(sum((z - mean) ** 2 for z in row) / 6)
            expected = [(z - mean) / (deviation + 1e-7) for z in row]
            assert found[n, t].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('shift', [-100.0, 3.0])
@pytest.mark.parametrize('scale', [0.01, 50.0])
def test_standardize_logits_is_invariant_to_shift_and_positive_scale(
    shift: float, scale: float
) -> None:
    logits = torch.randn(4, 10, dtype=torch.float64)
    found = standardize_logits(scale * logits + shift)
    torch.testing.assert_close(found, standardize_logits(logits), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(standardize_logits(-logits), -standardize_logits(logits))


def test_standardize_logits_gradient_matches_finite_differences() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(standardize_logits, (logits,))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_standardize_logits_of_large_logits_is_finite(dtype: torch.dtype) -> None:
    logits = (1e4 * torch.randn(4, 6).sign() + torch.randn(4, 6)).to(dtype).requires_grad_()
    found = standardize_logits(logits)
    found.square().sum().backward()
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize('fill', [0.0, 0.1, 3.7, -1e4])
@pytest.mark.parametrize('classes', [1, 2, 7, 1000])
def test_standardize_logits_of_a_constant_row_is_zero_without_gradient(
    fill: float, classes: int
) -> None:
    logits = torch.full((2, classes), fill, requires_grad=True)
    found = standardize_logits(logits)
    found.sum().backward()
    assert not found.detach().any()
    assert logits.grad is not None and not logits.grad.any()


def test_standardize_logits_of_nan_is_nan_in_its_row_alone() -> None:
    logits = torch.randn(2, 4)
    logits[0, 1] = math.nan
    found = standardize_logits(logits)
    assert found[0].isnan().all() and found[1].isfinite().all()
