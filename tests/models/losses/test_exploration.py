import math

import pytest
import torch

from mmkd_plugin.models.losses import (
    ExplorationLoss,
    exploration_loss,
    factor_cosine,
    factor_distance,
)
from mmkd_plugin.models.losses.exploration import DISTANCES, FACTOR_DISTANCES
from mmkd_plugin.registry import MODELS

LOWER_BOUND = dict(
    l1=-2 / math.sqrt(12), l2=-4 / 12, cosine=-2.0, partial_l2=-4 / 12, orthogonal=0.0, cka=0.0
)  # D = 12


def test_value_derived_by_hand() -> None:
    # Over their norms (.6, .8) and (-.8, .6) against (0, 1) and (-.6, .8): differences (.6, -.2) and (-.2, -.2).
    # l1: 1.2 / 4. l2: .48 / 4. Cosines .8 and .96: 1 - .88. Partial: without -.8 <= -.6 <= 0: .44 / 4. All negative.
    # Orthogonal: (.64 + .9216) / 2 = .7808.
    student, teacher = (
        torch.tensor([[3.0, 4.0], [-4.0, 3.0]]),
        torch.tensor([[0.0, 2.0], [-6.0, 8.0]]),
    )
    losses = [exploration_loss(student, teacher, distance).item() for distance in DISTANCES[:-1]]
    assert losses == pytest.approx([-0.3, -0.12, -0.12, -0.11, 0.7808])
    assert exploration_loss(student, teacher).item() == losses[0]
    # CKA of single numbers is the squared correlation: (0, 1, 2) centred (-1, 0, 1), (0, 0, 3) centred (-1, -1, 2), product 3,
    # squares 2 and 6: 9 / 12.
    factors = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [0.0], [3.0]])
    assert exploration_loss(*factors, 'cka').item() == pytest.approx(0.75)


@pytest.mark.parametrize('reduction', ['mean', 'size_invariant'])
@pytest.mark.parametrize('distance', FACTOR_DISTANCES)
def test_is_the_negative_of_the_distance(distance: str, reduction: str) -> None:
    student, teacher = torch.randn(3, 2, 2, 4), torch.randn(3, 2, 4, 2)
    expected = -factor_distance(student, teacher, distance, reduction)
    torch.testing.assert_close(exploration_loss(student, teacher, distance, reduction), expected)


def test_agrees_with_a_loop_in_float64() -> None:
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
def test_descent_leads_to_the_bound_and_not_beyond(distance: str) -> None:
    # 'partial_l2' sees all of a teacher that is on everywhere; CKA has room to be 0 where few of the teacher's features vary.
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


def test_l1_is_bounded_and_may_rest_before_the_bound() -> None:
    # Its bound, -2 / sqrt(4), is reached by opposite factors of one size.
    flat = torch.ones(1, 4)
    assert exploration_loss(-flat, flat).item() == -1.0
    # (12, 7, 7, 7) over its norm is (.70, .41, .41, .41). The elements -.5, .5, .5, .5 are all on their far side, so that each
    # should grow, which the norm does not allow: no gradient, though the cosine is positive, and the opposite would be better.
    teacher = torch.tensor([[12.0, 7.0, 7.0, 7.0]])
    student = torch.tensor([[-1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    loss = exploration_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student))
    assert factor_cosine(student, teacher).item() > 0.2
    assert exploration_loss(-flat, teacher).item() < loss.item()


def test_partial_l2_leaves_alone_what_is_off_on_both_sides_and_no_more() -> None:
    # Directions (-.8, .6) and (-.6, .8): element 0 is off in both, and lower in the student. With (.8, .6) it counts.
    student, teacher = torch.tensor([[-4.0, 3.0]]), torch.tensor([[-3.0, 4.0]])
    assert exploration_loss(student, teacher, 'partial_l2').item() == pytest.approx(-(0.2**2) / 2)
    assert exploration_loss(-student, teacher, 'partial_l2').item() == pytest.approx(
        -(1.4**2 + 1.4**2) / 2
    )


@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize(
    'shapes', [((1, 4), (1, 4)), ((3, 2, 2, 2), (3, 2, 4, 4)), ((6, 2), (6, 2))]
)
def test_gradient_reaches_the_student_alone(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], distance: str
) -> None:
    student, teacher = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    assert torch.autograd.gradcheck(lambda s: exploration_loss(s, teacher, distance), (student,))
    exploration_loss(student, teacher, distance).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('n', [1, 2])
def test_cka_of_one_or_two_images_has_no_gradient(n: int) -> None:
    student = torch.randn(n, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    loss = exploration_loss(student, torch.randn(n, 3, 2, 2, dtype=torch.float64), 'cka')
    loss.backward()
    assert loss.item() == pytest.approx(n - 1.0)
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_computed_in_float32(dtype: torch.dtype, distance: str) -> None:
    student, teacher = (
        (400.0 * torch.randn(3, 3, 4, 4)).to(dtype).requires_grad_(),
        torch.randn(3, 3, 2, 2).to(dtype),
    )
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = exploration_loss(student, teacher, distance)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == exploration_loss(student.float(), teacher.float(), distance).item()
    assert (
        student.grad is not None and student.grad.isfinite().all() and (student.grad != 0.0).any()
    )


@pytest.mark.parametrize('n', [1, 3])
@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('fill', [0.0, 3.0])
def test_constant_maps_are_finite_and_zero_norm_has_no_gradient(
    fill: float, distance: str, n: int
) -> None:
    student = torch.full((n, 2, 2, 2), fill, requires_grad=True)
    for teacher in (torch.zeros(n, 2, 2, 2), torch.ones(n, 2, 2, 2), torch.randn(n, 2, 2, 2)):
        loss = exploration_loss(student, teacher, distance)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite() and gradient.isfinite().all()
        assert fill == 3.0 or (gradient == 0.0).all()


@pytest.mark.parametrize('distance', DISTANCES)
def test_shapes_are_named_in_the_error(distance: str) -> None:
    with pytest.raises(ValueError, match=r'got student \(4, 3, 2, 2\), teacher \(4, 5, 2, 2\)'):
        exploration_loss(torch.randn(4, 3, 2, 2), torch.randn(4, 5, 2, 2), distance)


def test_words_must_be_known() -> None:
    with pytest.raises(
        ValueError, match=r"distance: expected one of 'l1', .*, 'orthogonal', 'cka', got 'rbf'"
    ):
        exploration_loss(torch.randn(2, 3), torch.randn(2, 3), 'rbf')
    with pytest.raises(ValueError, match='distance: expected one of'):
        ExplorationLoss(distance='rbf')
    for distance in DISTANCES:  # also where it makes no difference
        with pytest.raises(
            ValueError, match="reduction: expected one of 'mean', 'size_invariant', got 'sum'"
        ):
            exploration_loss(torch.randn(2, 3), torch.randn(2, 3), distance, reduction='sum')
    with pytest.raises(ValueError, match='reduction: expected one of'):
        ExplorationLoss(reduction='sum')


@pytest.mark.parametrize('loss_weight', [-1.0, math.nan])
def test_a_negative_weight_is_refused(loss_weight: float) -> None:
    with pytest.raises(ValueError, match='loss_weight: expected a number >= 0, got'):
        ExplorationLoss(loss_weight=loss_weight)


def test_module_is_the_weighted_function() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    config = dict(
        type='ExplorationLoss', loss_weight=50.0, distance='l2', reduction='size_invariant'
    )
    expected = 50.0 * exploration_loss(student, teacher, 'l2', 'size_invariant')
    torch.testing.assert_close(MODELS.build(config)(student, teacher), expected)
