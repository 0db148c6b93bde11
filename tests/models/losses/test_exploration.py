import math

import pytest
import torch

from mmkd_plugin.models.losses import exploration_loss, factor_cosine, factor_distance
from mmkd_plugin.models.losses.exploration import DISTANCES, FACTOR_DISTANCES

LOWER_BOUND = dict(
    l1=-2 / math.sqrt(12), l2=-4 / 12, cosine=-2.0, partial_l2=-4 / 12, orthogonal=0.0, cka=0.0
)  # D = 12


def test_exploration_loss_has_the_values_derived_by_hand() -> None:
    # Over their norms (.6, .8) and (-.8, .6) against (0, 1) and (-.6, .8): differences (.6, -.2)
    # and (-.2, -.2). l1: 1.2 / 4. l2: .48 / 4. Cosines .8 and .96: 1 - .88. Partial: without -.8 <=
    # -.6 <= 0: .44 / 4. All negative. Orthogonal: (.64 + .9216) / 2 = .7808.
    student, teacher = (
        torch.tensor([[3.0, 4.0], [-4.0, 3.0]]),
        torch.tensor([[0.0, 2.0], [-6.0, 8.0]]),
    )
    losses = [exploration_loss(student, teacher, distance).item() for distance in DISTANCES[:-1]]
    assert losses == pytest.approx([-0.3, -0.12, -0.12, -0.11, 0.7808])
    assert exploration_loss(student, teacher).item() == losses[0]
    # CKA of single numbers is the squared correlation: (0, 1, 2) centred (-1, 0, 1), (0, 0, 3)
    # centred (-1, -1, 2), product 3, squares 2 and 6: 9 / 12.
    factors = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [0.0], [3.0]])
    assert exploration_loss(*factors, 'cka').item() == pytest.approx(0.75)


@pytest.mark.parametrize('reduction', ['mean', 'size_invariant'])
@pytest.mark.parametrize('distance', FACTOR_DISTANCES)
def test_exploration_loss_is_the_negative_factor_distance(distance: str, reduction: str) -> None:
    student, teacher = torch.randn(3, 2, 2, 4), torch.randn(3, 2, 4, 2)
    expected = -factor_distance(student, teacher, distance, reduction)
    torch.testing.assert_close(exploration_loss(student, teacher, distance, reduction), expected)


def test_exploration_loss_equals_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(3, 2, 4, 4, dtype=torch.float64),
        torch.randn(3, 2, 4, 4, dtype=torch.float64),
    )
    l1 = orthogonal = 0.0
    for s_map, t_map in zip(student, teacher, strict=True):
        s, t = s_map.flatten().tolist(), t_map.flatten().tolist()
        s_norm, t_norm = math.hypot(*s), math.hypot(*t)
        l1 -= sum(abs(a / s_norm - b / t_norm) for a, b in zip(s, t, strict=True)) / (3 * 32)
        orthogonal += (sum(a * b for a, b in zip(s, t, strict=True)) / (s_norm * t_norm)) ** 2 / 3
    assert exploration_loss(student, teacher).item() == pytest.approx(l1, rel=1e-12)
    assert exploration_loss(student, teacher, 'orthogonal').item() == pytest.approx(
        orthogonal, rel=1e-12
    )


@pytest.mark.parametrize('distance', DISTANCES[1:])
def test_exploration_loss_by_descent_reaches_its_bound(distance: str) -> None:
    # 'partial_l2' counts all elements of a teacher that is on everywhere. CKA can reach 0, because
    # few of the teacher's features vary.
    teacher = torch.ones(6, 3, 2, 2, dtype=torch.float64)
    teacher[:, 0, 0, 0] += torch.rand(6, dtype=torch.float64)
    student = torch.randn(6, 3, 2, 2, dtype=torch.float64)
    lowest = math.inf
    for step in range(150):
        student = student.detach().requires_grad_()
        loss = exploration_loss(student, teacher, distance)
        lowest = min(lowest, loss.item())
        (gradient,) = torch.autograd.grad(loss, student)
        student = student - 0.97**step * gradient / gradient.norm()
    assert lowest >= LOWER_BOUND[distance] - 1e-12
    assert lowest == pytest.approx(
        LOWER_BOUND[distance], rel=0.02, abs=0.02 if LOWER_BOUND[distance] == 0.0 else None
    )
    cosine = factor_cosine(student.detach(), teacher)
    if distance == 'orthogonal':
        assert cosine.abs().max() < 0.1
    elif distance != 'cka':
        assert cosine.max() < -0.9


def test_exploration_loss_l1_can_lose_its_gradient_before_the_bound() -> None:
    # Its bound, -2 / sqrt(4), is reached by opposite factors of one size.
    flat = torch.ones(1, 4)
    assert exploration_loss(-flat, flat).item() == -1.0
    # (12, 7, 7, 7) over its norm is (.70, .41, .41, .41). The elements -.5, .5, .5, .5 are all on
    # their far side, so that each should grow, which the norm does not allow: no gradient, though
    # the cosine is positive, and the opposite would be better.
    teacher = torch.tensor([[12.0, 7.0, 7.0, 7.0]])
    student = torch.tensor([[-1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    loss = exploration_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student))
    assert factor_cosine(student, teacher).item() > 0.2
    assert exploration_loss(-flat, teacher).item() < loss.item()


def test_exploration_loss_partial_l2_ignores_elements_off_on_both_sides_alone() -> None:
    # Directions (-.8, .6) and (-.6, .8): element 0 is off in both, and lower in the student. With
    # (.8, .6) it counts.
    student, teacher = torch.tensor([[-4.0, 3.0]]), torch.tensor([[-3.0, 4.0]])
    assert exploration_loss(student, teacher, 'partial_l2').item() == pytest.approx(-(0.2**2) / 2)
    assert exploration_loss(-student, teacher, 'partial_l2').item() == pytest.approx(
        -(1.4**2 + 1.4**2) / 2
    )


@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize(
    'shapes', [((1, 4), (1, 4)), ((3, 2, 2, 2), (3, 2, 4, 4)), ((6, 2), (6, 2))]
)
def test_exploration_loss_gradient_matches_finite_differences(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], distance: str
) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: exploration_loss(s, teacher, distance), (student,))


@pytest.mark.parametrize('n', [1, 2])
def test_exploration_loss_cka_of_one_or_two_images_has_no_gradient(n: int) -> None:
    student = torch.randn(n, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    loss = exploration_loss(student, torch.randn(n, 3, 2, 2, dtype=torch.float64), 'cka')
    loss.backward()
    assert loss.item() == pytest.approx(n - 1.0)
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize('n', [1, 3])
@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('fill', [0.0, 3.0])
def test_exploration_loss_of_a_zero_norm_has_no_gradient(
    fill: float, distance: str, n: int
) -> None:
    student = torch.full((n, 2, 2, 2), fill, requires_grad=True)
    for teacher in (torch.zeros(n, 2, 2, 2), torch.ones(n, 2, 2, 2), torch.randn(n, 2, 2, 2)):
        loss = exploration_loss(student, teacher, distance)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite() and gradient.isfinite().all()
        assert fill == 3.0 or (gradient == 0.0).all()
