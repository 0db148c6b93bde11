import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmkd_plugin.models.losses import cka_loss, linear_cka


def test_linear_cka_has_the_values_derived_by_hand() -> None:
    # For single numbers it is the squared correlation: (0, 1, 2) centred (-1, 0, 1), (0, 0, 3)
    # centred (-1, -1, 2): product 3, squares 2 and 6: 9 / (2 * 6). (1, -2, 1) is centred, and its
    # product with (-1, 0, 1) is 0.
    x = torch.tensor([[0.0], [1.0], [2.0]])
    assert linear_cka(x, torch.tensor([[0.0], [0.0], [3.0]])).item() == pytest.approx(0.75)
    assert linear_cka(x, torch.tensor([[1.0], [-2.0], [1.0]])).item() == pytest.approx(
        0.0, abs=1e-12
    )
    # Two uncorrelated features against the first of them, centred already, each with 4 for its sum
    # of squares: the cross products are (4, 0), so 16 over |diag(4, 4)| = 4 sqrt(2) times 4: 1 /
    # sqrt(2).
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert linear_cka(two, two[:, :1]).item() == pytest.approx(1 / math.sqrt(2))


def reference(x: Tensor, y: Tensor) -> float:
    """Compute CKA from centred kernels: HSIC(K, L) over the root of HSIC(K, K) HSIC(L, L)."""
    n = len(x)

    def kernel(features: Tensor) -> list[list[float]]:
        rows = features.double().flatten(1).tolist()
        return [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]

    def hsic(k: list[list[float]], m: list[list[float]]) -> float:
        row = [sum(line) / n for line in k]
        mean = sum(row) / n
        return sum((k[i][j] - row[i] - row[j] + mean) * m[i][j] for i in range(n) for j in range(n))

    k, m = kernel(x), kernel(y)
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


# (N, ...) of x and y: wide, tall, and each with the other.
SHAPES = [((4, 3, 2, 2), (4, 9)), ((20, 3), (20, 2)), ((5, 2), (5, 3, 4, 4)), ((9, 4, 2), (9, 1))]


@pytest.mark.parametrize('shapes', SHAPES)
def test_linear_cka_equals_a_loop_in_float64(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    x, y = (torch.randn(shape, dtype=torch.float64) + 2.0 for shape in shapes)
    assert linear_cka(x, y).item() == pytest.approx(reference(x, y), rel=1e-10)


@pytest.mark.parametrize('shapes', SHAPES)
def test_linear_cka_far_from_the_origin_is_within_1e_5_of_float64(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    x, y = (torch.randn(shape) + 1000.0 for shape in shapes)
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    loss, expected = linear_cka(x, y), linear_cka(exact, y.double())
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert x.grad is not None and exact.grad is not None
    assert (x.grad - exact.grad).norm() < 1e-5 * exact.grad.norm()


@pytest.mark.parametrize('n', [3, 30])
def test_linear_cka_by_either_form_is_the_same(n: int) -> None:
    # Features that are 0 for all images change only which form is cheaper.
    x, y = (
        torch.randn(n, 4, dtype=torch.float64, requires_grad=True),
        torch.randn(n, 3, dtype=torch.float64),
    )
    loss = linear_cka(x, y)
    wide = linear_cka(
        torch.cat([x, torch.zeros(n, 200)], dim=1), torch.cat([y, torch.zeros(n, 200)], dim=1)
    )
    torch.testing.assert_close(wide, loss)
    torch.testing.assert_close(torch.autograd.grad(wide, x)[0], torch.autograd.grad(loss, x)[0])


@pytest.mark.parametrize(('n', 'd_x', 'd_y'), [(4, 30, 50), (50, 4, 3), (9, 10, 1)])
def test_linear_cka_computes_the_form_of_less_work(n: int, d_x: int, d_y: int) -> None:
    # Multiplications and additions: of two N x N matrices, or of D_x x D_x, D_y x D_y and D_x x
    # D_y.
    gram, covariance = 2 * n * n * (d_x + d_y), 2 * n * (d_x**2 + d_y**2 + d_x * d_y)
    with FlopCounterMode(display=False) as counter:
        linear_cka(torch.randn(n, d_x), torch.randn(n, d_y))
    assert counter.get_total_flops() == min(gram, covariance)


@pytest.mark.parametrize('shapes', SHAPES)
def test_linear_cka_gradient_matches_finite_differences(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    x, y = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(linear_cka, (x, y))
    linear_cka(x, y.detach()).backward()
    assert x.grad is not None and (x.grad != 0.0).any() and y.grad is None


@pytest.mark.parametrize('shapes', SHAPES)
def test_linear_cka_is_invariant_to_scale_shift_rotation_and_order(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    x, y = (torch.randn(shape, dtype=torch.float64).flatten(1) for shape in shapes)
    rotation, _ = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], dtype=torch.float64))
    order, loss = torch.randperm(len(x)), linear_cka(x, y)
    moved = 1e4 * x @ rotation + torch.randn(x.shape[1], dtype=torch.float64)
    torch.testing.assert_close(linear_cka(moved[order], 1e-4 * y[order]), loss)
    torch.testing.assert_close(linear_cka(y, x), loss)
    torch.testing.assert_close(linear_cka(x, moved), torch.ones((), dtype=torch.float64))


def test_linear_cka_changes_with_features_scaled_one_by_one() -> None:
    x = torch.randn(20, 3, dtype=torch.float64)
    assert linear_cka(x, x * torch.tensor([1.0, 1.0, 100.0])).item() < 0.9


@pytest.mark.parametrize('scale', [1e-12, 1e12])
def test_linear_cka_of_small_and_large_features_is_accurate_in_float32(scale: float) -> None:
    # Their fourth powers are no float32.
    x, y = torch.randn(6, 20), torch.randn(6, 20)
    torch.testing.assert_close(linear_cka(scale * x, scale * y), linear_cka(x, y))


@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('value', [0.0, 0.1, 1e4])
def test_linear_cka_of_equal_images_is_zero_without_gradient(value: float, wide: bool) -> None:
    # 0.1 is no binary number, and its mean of 7 is not 0.1: rounding must not pass for a difference
    # between images.
    n, d = (7, 50) if wide else (7, 2)
    constant = torch.full((n, d), value, requires_grad=True)
    for other in (
        torch.randn(n, d, requires_grad=True),
        torch.full((n, d), 0.3, requires_grad=True),
    ):
        for pair in ((constant, other), (other, constant)):
            loss = linear_cka(*pair)
            gradients = torch.autograd.grad(loss, pair)
            assert loss.item() == 0.0
            assert all((gradient == 0.0).all() for gradient in gradients)


def test_linear_cka_of_one_or_two_images_has_no_gradient() -> None:
    for n in (1, 2):
        x = torch.randn(n, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        loss = linear_cka(x, torch.randn(n, 5, dtype=torch.float64))
        loss.backward()
        assert loss.item() == pytest.approx(n - 1.0)
        torch.testing.assert_close(x.grad, torch.zeros_like(x))


def test_linear_cka_of_few_images_with_many_features_is_near_one() -> None:
    # The docstring warns of it: near 1 for unrelated features, near 0 with more images.
    assert linear_cka(torch.randn(8, 2000), torch.randn(8, 2000)).item() > 0.95
    assert linear_cka(torch.randn(2000, 8), torch.randn(2000, 8)).item() < 0.05


@pytest.mark.parametrize('shapes', SHAPES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_linear_cka_of_half_precision_is_computed_in_float32(
    dtype: torch.dtype, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    # Autocast would multiply the matrices in bfloat16.
    x, y = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss, wide = linear_cka(x, y), linear_cka(x.float(), y.float())
    loss.backward()
    expected = linear_cka(x.float(), y.float())
    assert loss.dtype == torch.float32 and loss.item() == wide.item() == expected.item()
    assert x.grad is not None and x.grad.dtype == dtype and x.grad.isfinite().all()


@pytest.mark.parametrize('shapes', SHAPES)
def test_cka_loss_is_one_minus_the_similarity(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.float64) + 2.0 for shape in shapes)
    expected = 1.0 - reference(student, teacher)
    assert cka_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cka_loss(s, teacher), (student,))


def test_cka_loss_of_one_or_two_images_has_no_gradient() -> None:
    for n in (1, 2):
        student = torch.randn(n, 3, 2, 2, dtype=torch.float64, requires_grad=True)
        loss = cka_loss(student, torch.randn(n, 5, dtype=torch.float64))
        loss.backward()
        assert loss.item() == pytest.approx(2.0 - n)
        torch.testing.assert_close(student.grad, torch.zeros_like(student))


def test_cka_loss_by_descent_reaches_the_teachers_representation() -> None:
    teacher = torch.randn(12, 3, dtype=torch.float64)
    student = torch.randn(12, 4, dtype=torch.float64)
    start = cka_loss(student, teacher).item()
    for step in range(150):
        student = student.detach().requires_grad_()
        loss = cka_loss(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        student = student - 0.97**step * gradient / gradient.norm()
    assert loss.item() < 0.05 * start
