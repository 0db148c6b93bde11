import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.models.losses import angle, angle_loss


@pytest.fixture(autouse=True, params=[0, 10**6], ids=['distances', 'directions'])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in both forms, whatever the number of columns."""
    monkeypatch.setattr(angle, 'FEW_NUMBERS', request.param)


def difference_tensor_loss(student: Tensor, teacher: Tensor, delta: float = 1.0) -> Tensor:
    """Compute the loss in its usual form, from unit vectors between vertices (j) and ends (i)."""

    def cosines(x: Tensor) -> Tensor:
        ends = F.normalize(x[None] - x[:, None], dim=2)
        return ends @ ends.mT

    n = len(student)
    distinct = torch.tensor(
        [[[len({i, j, k}) == 3 for k in range(n)] for i in range(n)] for j in range(n)]
    )
    return F.huber_loss(cosines(student)[distinct], cosines(teacher)[distinct], delta=delta)


EQUILATERAL = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3.0)]])
RIGHT = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])


def test_angle_loss_has_the_value_derived_by_hand() -> None:
    # Cosines at the three vertices: equilateral 1/2, 1/2, 1/2; right-angled 0, sqrt(1/2),
    # sqrt(1/2). Each stands for two ordered triplets. The Huber loss is half the square: 1/8 once,
    # (1/2 - sqrt(1/2))^2 / 2 = (3/4 - sqrt(1/2)) / 2 twice; their mean.
    expected = (1 / 8 + 3 / 4 - math.sqrt(1 / 2)) / 3
    assert angle_loss(EQUILATERAL, RIGHT).item() == pytest.approx(expected)


def test_angle_loss_beyond_delta_is_linear() -> None:
    # As above, but 1/2 lies beyond delta = 1/4: 1/4 * (1/2 - 1/8) = 3/32. The other difference,
    # 0.207, does not.
    expected = (3 / 32 + 3 / 4 - math.sqrt(1 / 2)) / 3
    assert angle_loss(EQUILATERAL, RIGHT, delta=0.25).item() == pytest.approx(expected)


def test_angle_loss_equals_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(6, 5, dtype=torch.float64),
        torch.randn(6, 3, dtype=torch.float64),
    )

    def cosine(x: Tensor, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        return float(a @ b / a.norm() / b.norm())

    def huber(d: float) -> float:
        return 0.5 * d * d if abs(d) < 0.3 else 0.3 * (abs(d) - 0.15)

    triplets = [
        (i, j, k) for i in range(6) for j in range(6) for k in range(6) if len({i, j, k}) == 3
    ]
    expected = sum(huber(cosine(student, *t) - cosine(teacher, *t)) for t in triplets) / len(
        triplets
    )
    assert angle_loss(student, teacher, delta=0.3).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('offset', [0.0, 100.0])
@pytest.mark.parametrize('spread', [1.0, 1e-3])
def test_angle_loss_in_float32_is_within_1e_5_of_float64(offset: float, spread: float) -> None:
    # Pairs of near images far from the origin: float32 products of the coordinates would lose their
    # angles.
    centres = offset + torch.randn(12, 40).repeat_interleave(2, dim=0)
    student = (centres + spread * torch.randn(24, 40)).requires_grad_()
    teacher = torch.randn(24, 7)
    reference = student.detach().double().requires_grad_()
    loss, expected = (
        angle_loss(student, teacher),
        difference_tensor_loss(reference, teacher.double()),
    )
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert student.grad is not None and reference.grad is not None
    assert (student.grad - reference.grad).norm() < 1e-5 * reference.grad.norm()


@pytest.mark.parametrize('delta', [1.0, 0.1])
def test_angle_loss_gradient_matches_finite_differences(delta: float) -> None:
    student = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: 3.0 * angle_loss(s, teacher, delta), (student,))


def test_angle_loss_refuses_a_second_derivative() -> None:
    student = torch.randn(4, 3, requires_grad=True)
    loss = angle_loss(student, torch.randn(4, 3))
    (gradient,) = torch.autograd.grad(loss.square(), student, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        gradient.sum().backward()


def test_angle_loss_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    student = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(7, 3, dtype=torch.float64)
    whole = angle_loss(student, teacher)
    (gradient,) = torch.autograd.grad(whole, student)
    for sizes in (angle.COSINES_AT_ONCE, angle.PRODUCTS_AT_ONCE):
        monkeypatch.setitem(sizes, 'cpu', 2 * 7 * 7)  # two vertices at once, and a last one
    chunked = angle_loss(student, teacher)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(torch.autograd.grad(chunked, student)[0], gradient)


def test_angle_loss_is_invariant_to_scale_shift_rotation_and_order() -> None:
    student, teacher = (
        torch.randn(6, 4, dtype=torch.float64),
        torch.randn(6, 4, dtype=torch.float64),
    )
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    order = torch.randperm(6)
    moved = 7.0 * student @ rotation + 3.0
    torch.testing.assert_close(
        angle_loss(moved[order], teacher[order]), angle_loss(student, teacher)
    )
    torch.testing.assert_close(angle_loss(student, moved), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize('n', [1, 2])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_angle_loss_without_a_triplet_is_zero_with_a_zero_gradient(
    n: int, dtype: torch.dtype
) -> None:
    student = torch.full((n, 4), 6e4, dtype=dtype, requires_grad=True)  # their sum is no float16
    loss = angle_loss(student, torch.randn(n, 4))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None and (student.grad == 0.0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_angle_loss_of_equal_images_has_no_gradient(dtype: torch.dtype) -> None:
    student = torch.ones(5, 4, dtype=dtype, requires_grad=True)
    loss = angle_loss(student, torch.randn(5, 4))
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad is not None and (student.grad == 0.0).all()


@pytest.mark.parametrize('twins_of', ['student', 'teacher'])
def test_angle_loss_of_coinciding_images_counts_their_triplets_as_equal(twins_of: str) -> None:
    # Images 0 and 1 coincide in one network, so (0, 1, k) and (1, 0, k) have no angle: 4 unordered
    # pairs of ends lose theirs. At vertices 2 and 3 the ends 0 and 1 lie in one direction,
    # with cosine 1. That leaves 8 of the 12 unordered triplets.
    points = dict(
        student=torch.randn(4, 3, dtype=torch.float64),
        teacher=torch.randn(4, 3, dtype=torch.float64),
    )
    points[twins_of][1] = points[twins_of][0]
    student, teacher = points['student'].requires_grad_(), points['teacher']

    def cosine(x: Tensor, i: int, j: int, k: int) -> Tensor:
        return F.cosine_similarity(x[i] - x[j], x[k] - x[j], dim=0)

    unordered = [(i, j, k) for j in range(4) for i in range(4) for k in range(i) if j not in (i, k)]
    kept = [(i, j, k) for i, j, k in unordered if j > 1 or 1 - j not in (i, k)]
    assert (len(unordered), len(kept)) == (12, 8)
    expected = 0.5 * sum((cosine(student, *t) - cosine(teacher, *t)) ** 2 for t in kept) / 12
    loss = angle_loss(
        student, teacher, delta=2.0
    )  # cosines are never further apart: half the square everywhere
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, student)[0] for value in (loss, expected))
    )


def test_angle_loss_of_rounding_noise_has_no_gradient() -> None:
    # Five images that differ by a last bit of float32 coincide; without that, the gradient would be
    # of the order of 1e7.
    student = torch.ones(5, 4)
    student[0, 0] = student[1, 1] = student[2, 2] = 1.0 + torch.finfo(torch.float32).eps
    student.requires_grad_()
    angle_loss(student, torch.randn(5, 4)).backward()
    assert student.grad is not None and (student.grad == 0.0).all()
