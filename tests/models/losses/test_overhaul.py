import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from mmkd_plugin.models.losses import overhaul_loss, overhaul_margin

MARGIN = torch.tensor([-2.0])


def one_channel(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_overhaul_loss_has_the_value_derived_by_hand() -> None:
    # Margin -2. Teacher on: (1 - 3)^2 = 4. Off at -1, student above: (0 + 1)^2 = 1. Off at -1,
    # student below: 0. Off at -5, so the target is the margin: student -1 above it, (-1 + 2)^2 = 1;
    # student -3 below the margin, though above -5: 0. Sum 6.
    student, teacher = (
        one_channel(1.0, 0.0, -4.0, -1.0, -3.0),
        one_channel(3.0, -1.0, -1.0, -5.0, -5.0),
    )
    assert overhaul_loss(student, teacher, MARGIN).item() == 6.0
    # The sum over elements is divided by the images alone.
    assert (
        overhaul_loss(student.repeat(3, 1, 2, 1), teacher.repeat(3, 1, 2, 1), MARGIN).item() == 12.0
    )


def test_overhaul_loss_has_a_margin_for_each_channel() -> None:
    # Targets max(-5, -1) and max(-5, -4): (0 + 1)^2 + (0 + 4)^2, of vectors as of maps.
    student, teacher, margin = (
        torch.zeros(1, 2),
        torch.full((1, 2), -5.0),
        torch.tensor([-1.0, -4.0]),
    )
    assert overhaul_loss(student, teacher, margin).item() == 17.0
    assert overhaul_loss(student[..., None, None], teacher[..., None, None], margin).item() == 17.0


def test_overhaul_loss_of_two_sizes_pools_before_the_margin() -> None:
    # The teacher's mean of -9 and 3 is -3: below the margin, whose square distance to 0 is 4. (With
    # the margin first it were 1/2.)
    assert overhaul_loss(one_channel(0.0), one_channel(-9.0, 3.0), MARGIN).item() == 4.0
    # The student's mean of 3 and 5 is 4, against 1: 9.
    assert overhaul_loss(one_channel(3.0, 5.0), one_channel(1.0), MARGIN).item() == 9.0


def test_overhaul_loss_equals_a_loop_in_float64() -> None:
    shape = (2, 3, 4, 5)
    student, teacher, margin = (torch.randn(s, dtype=torch.float64) for s in (shape, shape, (3,)))
    margin = -margin.abs()
    expected = 0.0
    for n, c, y, x in (
        (n, c, y, x) for n in range(2) for c in range(3) for y in range(4) for x in range(5)
    ):
        s, t = student[n, c, y, x].item(), max(teacher[n, c, y, x].item(), margin[c].item())
        if s > t or t > 0:
            expected += (s - t) ** 2 / 2
    assert overhaul_loss(student, teacher, margin).item() == pytest.approx(expected, rel=1e-12)


def test_overhaul_loss_is_zero_behind_the_relu_and_invariant_to_order() -> None:
    shape = (4, 3, 2, 2)
    student, teacher, margin = (torch.randn(s, dtype=torch.float64) for s in (shape, shape, (3,)))
    margin = -margin.abs()
    target = torch.maximum(teacher, margin[:, None, None])
    assert overhaul_loss(target, teacher, margin).item() == 0.0
    lower = torch.where(target > 0.0, target, target - torch.rand(shape))
    assert overhaul_loss(lower, teacher, margin).item() == 0.0
    images, channels = torch.randperm(4), torch.randperm(3)
    moved = overhaul_loss(
        student[images][:, channels], teacher[images][:, channels], margin[channels]
    )
    torch.testing.assert_close(moved, overhaul_loss(student, teacher, margin))


@pytest.mark.parametrize(
    'shapes', [((1, 3), (1, 3)), ((1, 3, 4, 4), (1, 3, 2, 2)), ((2, 3, 2, 3), (2, 3, 4, 2))]
)
def test_overhaul_loss_gradient_matches_finite_differences(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    student, teacher, margin = (
        torch.randn(shape, dtype=torch.float64) for shape in (*shapes, (3,))
    )
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: overhaul_loss(s, teacher, margin), (student,))


@pytest.mark.parametrize('fill', [-1.0, 0.0, 1.0])
def test_overhaul_loss_of_constant_maps_has_the_gradient_derived_by_hand(fill: float) -> None:
    # Against a target of 0: 4 elements, pulled down from above, otherwise left.
    student = torch.full((1, 1, 2, 2), fill, requires_grad=True)
    loss = overhaul_loss(student, torch.zeros(1, 1, 2, 2), MARGIN)
    loss.backward()
    assert loss.item() == max(fill, 0.0) * 4.0
    assert student.grad is not None and (student.grad == 2.0 * max(fill, 0.0)).all()


@pytest.mark.parametrize('margin', [(1,), (4,), (1, 3, 1, 1), ()])
def test_overhaul_loss_of_a_wrong_margin_is_refused(margin: tuple[int, ...]) -> None:
    # Maps of two sizes: the error has the shapes as they were given.
    with pytest.raises(ValueError, match=r'^overhaul_loss: student and margin must') as error:
        overhaul_loss(torch.randn(4, 3, 2, 2), torch.randn(4, 3, 1, 1), torch.zeros(margin))
    assert str(error.value).endswith(f'(found student (4, 3, 2, 2), margin {margin}).')


def margin_of(gamma: float, beta: float) -> float:
    pair = torch.tensor([gamma], dtype=torch.float64), torch.tensor([beta], dtype=torch.float64)
    return overhaul_margin(*pair).item()


def test_overhaul_margin_has_the_value_derived_by_hand() -> None:
    # Half of the standard normal: -sqrt(2 / pi). It grows with |gamma|.
    assert margin_of(1.0, 0.0) == pytest.approx(-math.sqrt(2 / math.pi), rel=1e-15)
    assert margin_of(-3.0, 0.0) == pytest.approx(-3.0 * math.sqrt(2 / math.pi), rel=1e-15)


@pytest.mark.parametrize('gamma', [1.0, -0.01, 7.0])
@pytest.mark.parametrize(
    'z', [-300.0, -20.0, -3.0, -0.5, 0.0, 0.5, 3.0, 10.0, 40.0, 99.0, 101.0, 1e3, 1e6]
)
def test_overhaul_margin_equals_numerical_integration(z: float, gamma: float) -> None:
    # E[x | x < 0] of N(z, 1), where it is likely: around z, or at 0 in units of the density's
    # decay, which is 1 / z.
    def density(x: float) -> float:
        return math.exp(-0.5 * (x - z) ** 2) if z <= 0 else math.exp(x * z - 0.5 * x * x)

    start, end = (z - 40.0, min(0.0, z + 40.0)) if z <= 0 else (-40.0 / max(z, 1.0), 0.0)
    precise = dict(epsabs=0.0, epsrel=1e-12, limit=200)
    numerator, _ = quad(lambda x: x * density(x), start, end, **precise)
    denominator, _ = quad(density, start, end, **precise)
    assert margin_of(gamma, abs(gamma) * z) == pytest.approx(
        abs(gamma) * numerator / denominator, rel=1e-10
    )


def test_overhaul_margin_is_the_mean_of_samples_of_a_batch_norm() -> None:
    norm = torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -0.5]))
        norm.bias.copy_(torch.tensor([0.5, -1.0, 0.2]))
        output = norm(torch.randn(200_000, 3))
    sampled = [channel[channel < 0].mean().item() for channel in output.T]
    margin = overhaul_margin(norm.weight, norm.bias)
    assert margin.tolist() == pytest.approx(sampled, rel=0.02)
    assert not margin.requires_grad and margin.dtype == torch.float32


def test_overhaul_margin_without_spread_is_its_limit() -> None:
    # gamma = 0: the channel is beta, if that is negative; else the negative part, ever smaller,
    # tends to 0.
    gamma, beta = torch.tensor([0.0, 0.0, -0.0, 1e-40]), torch.tensor([-2.0, 3.0, 0.0, 5.0])
    assert overhaul_margin(gamma, beta).tolist() == [-2.0, 0.0, 0.0, 0.0]
    assert [margin_of(1e-300, beta) for beta in (-2.0, 2.0)] == [-2.0, 0.0]


def test_overhaul_margin_rises_without_a_jump_at_the_series() -> None:
    gamma, beta = (
        torch.ones(2001, dtype=torch.float64),
        torch.linspace(99.0, 101.0, 2001, dtype=torch.float64),
    )
    steps = overhaul_margin(gamma, beta).diff()
    assert (steps > 0.0).all() and steps.max() < 1.05 * steps.min()  # the slope is about 1 / z^2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_overhaul_margin_of_half_precision_is_float32(dtype: torch.dtype) -> None:
    gamma, beta = torch.tensor([1.5, 0.25]).to(dtype), torch.tensor([-0.5, 1.0]).to(dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        margin = overhaul_margin(gamma, beta)
    assert margin.dtype == torch.float32 and torch.equal(
        margin, overhaul_margin(gamma.float(), beta.float())
    )


def test_overhaul_margin_of_nan_is_nan() -> None:
    assert math.isnan(margin_of(math.nan, 1.0)) and math.isnan(margin_of(1.0, math.nan))
    assert overhaul_loss(one_channel(1.0), one_channel(-1.0), torch.tensor([math.nan])).isnan()


@pytest.mark.parametrize('shapes', [((3,), (4,)), ((1, 3), (1, 3))])
def test_overhaul_margin_of_wrong_shapes_is_refused(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match=r'^overhaul_margin: bn_weight and bn_bias must') as error:
        overhaul_margin(*(torch.ones(shape) for shape in shapes))
    assert str(error.value).endswith(f'(found bn_weight {shapes[0]}, bn_bias {shapes[1]}).')
