"""PKD, CWD and MGD against loops in float64, and what each of them is invariant to."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.losses import cwd_loss, mgd_loss, pkd_loss

Loss = Callable[..., Tensor]
SHAPES = [(2, 3, 4, 5), (1, 2, 3, 3), (3, 1, 1, 4)]
LOSSES: list[Loss] = [pkd_loss, cwd_loss, mgd_loss]
every_loss = pytest.mark.parametrize('loss', LOSSES)


def maps(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return one, 3 * other + 1


def pkd_by_loops(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for c in range(student.shape[1]):
        pair = [x[:, c].reshape(-1).tolist() for x in (student, teacher)]
        means = [math.fsum(x) / len(x) for x in pair]
        s, t = ([v - mean for v in x] for x, mean in zip(pair, means, strict=True))
        covariance = math.fsum(a * b for a, b in zip(s, t, strict=True))
        norms = math.fsum(a * a for a in s) * math.fsum(b * b for b in t)
        total += 1 - covariance / math.sqrt(norms)
    return total / student.shape[1]


def cwd_by_loops(student: Tensor, teacher: Tensor, temperature: float) -> float:
    images, channels = student.shape[:2]
    total = 0.0
    for n in range(images):
        for c in range(channels):
            s, t = (
                [v / temperature for v in x[n, c].flatten().tolist()] for x in (student, teacher)
            )
            own, target = (math.log(math.fsum(map(math.exp, x))) for x in (s, t))
            for a, b in zip(s, t, strict=True):
                total += math.exp(b - target) * ((b - target) - (a - own))
    return temperature**2 * total / (images * channels)


@pytest.mark.parametrize('shape', SHAPES)
def test_pkd_equals_one_minus_the_correlation_by_loops(shape: tuple[int, ...]) -> None:
    pair = maps(shape)
    assert pkd_loss(*pair).item() == pytest.approx(pkd_by_loops(*pair), rel=1e-10)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('shape', SHAPES)
def test_cwd_equals_the_divergence_by_loops(shape: tuple[int, ...], temperature: float) -> None:
    pair = maps(shape)
    expected = cwd_by_loops(*pair, temperature)
    assert cwd_loss(*pair, temperature).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize('shape', SHAPES)
def test_mgd_equals_the_sum_of_squares_by_loops(shape: tuple[int, ...]) -> None:
    student, teacher = maps(shape)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = math.fsum((a - b) ** 2 for a, b in pairs) / shape[0]
    assert mgd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@every_loss
def test_gradient_is_that_of_finite_differences(loss: Loss) -> None:
    student, teacher = maps((2, 2, 3, 2))
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())


def test_pkd_ignores_positive_scale_and_shift_of_each_channel() -> None:
    student, teacher = maps((2, 3, 4, 5))
    scale = torch.tensor([0.01, 7.0, 300.0]).double().view(1, 3, 1, 1)
    shift = torch.tensor([-5.0, 0.0, 90.0]).double().view(1, 3, 1, 1)
    expected = pkd_loss(student, teacher)
    torch.testing.assert_close(pkd_loss(scale * student + shift, teacher), expected)
    torch.testing.assert_close(pkd_loss(student, scale * teacher + shift), expected)
    per_image = torch.tensor([1.0, 5.0]).double().view(2, 1, 1, 1)
    assert not torch.isclose(pkd_loss(per_image * student, teacher), expected)


def test_cwd_ignores_a_shift_of_each_channel_and_no_scale() -> None:
    student, teacher = maps((2, 3, 4, 5))
    shift = torch.randn(2, 3, 1, 1, dtype=torch.float64) * 10
    torch.testing.assert_close(
        cwd_loss(student + shift, teacher - shift), cwd_loss(student, teacher)
    )
    assert not torch.isclose(cwd_loss(2 * student, teacher), cwd_loss(student, teacher))


@every_loss
def test_equal_maps_have_the_loss_zero(loss: Loss) -> None:
    student, teacher = maps((2, 3, 4, 5))[0].requires_grad_(), maps((2, 3, 4, 5))[0]
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert student.grad.abs().max() < 1e-9


@every_loss
@pytest.mark.parametrize('size', [(4, 4), (1, 1)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('fill', [0.0, 0.1, 1e4, -1e4])
def test_constant_channels_are_finite(
    loss: Loss, fill: float, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    student = torch.full((1, 2, *size), fill, dtype=dtype).requires_grad_()
    teacher = torch.randn(1, 2, *size).to(dtype)
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()
    if loss is pkd_loss:  # no deviation: half the variance of the teacher, which is one
        assert value.item() == pytest.approx(0.5 if size != (1, 1) else 0.0, abs=1e-3)
        assert not student.grad.any()


@every_loss
def test_values_of_ten_thousand_are_finite(loss: Loss) -> None:
    student, teacher = (1e4 * x.float().sign() for x in maps((1, 2, 3, 3)))
    value = loss(student.requires_grad_(), teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


def test_pkd_of_opposite_maps_is_two() -> None:
    student = maps((2, 3, 4, 5))[0]
    assert pkd_loss(student, -student).item() == pytest.approx(2.0)


def test_cwd_of_one_location_is_zero() -> None:
    assert cwd_loss(*maps((3, 2, 1, 1))).item() == 0.0


def test_cwd_weights_each_image() -> None:
    student, teacher = maps((3, 2, 4, 4))
    weights = torch.tensor([0.5, 0.0, 2.0])
    each = torch.stack([cwd_loss(student[n : n + 1], teacher[n : n + 1], 2.0) for n in range(3)])
    value = cwd_loss(student, teacher, 2.0, weights=weights)
    torch.testing.assert_close(value, (weights.double() * each).sum())
    torch.testing.assert_close(cwd_loss(student, teacher, 2.0), each.mean())
