import math

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor

from mmkd_plugin.models.losses import factor_cosine, factor_distance
from mmkd_plugin.models.losses.factor_distance import DISTANCES

STUDENT, TEACHER = torch.tensor([[3.0, 4.0], [-4.0, 3.0]]), torch.tensor([[0.0, 2.0], [-6.0, 8.0]])

# Over their norms (.6, .8) and (-.8, .6) against (0, 1) and (-.6, .8): differences (.6, -.2) and
# (-.2, -.2). l1: (.6 + .2 + .2 + .2) / 4 = .3. l2: (.36 + .04 + .04 + .04) / 4 = .12. Cosines .8
# and .48 + .48 = .96: 1 - .88 = .12. Partial: -.8 <= -.6 <= 0, both off, does not count: (.36 + .04
# + 0 + .04) / 4 = .11.
BY_HAND = dict(l1=0.3, l2=0.12, cosine=0.12, partial_l2=0.11)


@pytest.mark.parametrize('distance', DISTANCES)
def test_factor_distance_has_the_values_derived_by_hand(distance: str) -> None:
    assert factor_distance(STUDENT, TEACHER, distance).item() == pytest.approx(BY_HAND[distance])
    maps = (
        STUDENT[:, None, None],
        TEACHER[:, None, None],
    )  # (N, 1, 1, 2): the norm is over C, H and W together
    assert factor_distance(*maps, distance).item() == pytest.approx(BY_HAND[distance])
    # D = 2: the mean that does not depend on the size is sqrt(2 / 2048) = 1 / 32 of l1, 2 / 2048 =
    # 1 / 1024 of the squares.
    growth = dict(l1=1 / 32, l2=1 / 1024, cosine=1.0, partial_l2=1 / 1024)[distance]
    loss = factor_distance(STUDENT, TEACHER, distance, reduction='size_invariant')
    assert loss.item() == pytest.approx(growth * BY_HAND[distance])


def test_factor_cosine_has_the_values_derived_by_hand() -> None:
    assert factor_cosine(STUDENT, TEACHER).tolist() == pytest.approx([0.8, 0.96])
    assert factor_cosine(STUDENT, 0.0 * TEACHER).tolist() == [0.0, 0.0]


def reference(student: Tensor, teacher: Tensor, distance: str) -> float:
    images = []
    for s_map, t_map in zip(student, teacher, strict=True):
        s, t = s_map.flatten().tolist(), t_map.flatten().tolist()
        s_norm, t_norm = math.sqrt(sum(v * v for v in s)), math.sqrt(sum(v * v for v in t))
        pairs = [(a / s_norm, b / t_norm) for a, b in zip(s, t, strict=True)]
        images.append(
            dict(
                l1=sum(abs(a - b) for a, b in pairs) / len(pairs),
                l2=sum((a - b) ** 2 for a, b in pairs) / len(pairs),
                cosine=1.0 - sum(a * b for a, b in pairs),
                partial_l2=sum((a - b) ** 2 for a, b in pairs if a > b or b > 0) / len(pairs),
            )[distance]
        )
    return sum(images) / len(images)


@pytest.mark.parametrize('shape', [(1, 7), (3, 4, 2, 5)])
@pytest.mark.parametrize('distance', DISTANCES)
def test_factor_distance_equals_a_loop_in_float64(distance: str, shape: tuple[int, ...]) -> None:
    student, teacher = (
        torch.randn(shape, dtype=torch.float64),
        torch.randn(shape, dtype=torch.float64),
    )
    loss = factor_distance(student, teacher, distance)
    assert loss.item() == pytest.approx(reference(student, teacher, distance), rel=1e-12)


@pytest.mark.parametrize('distance', DISTANCES)
def test_factor_distance_in_float32_is_within_1e_5_of_float64(distance: str) -> None:
    student, teacher = (
        torch.randn(2, 64, 25, 42).requires_grad_(),
        100.0 * torch.randn(2, 64, 25, 42),
    )
    exact = student.detach().double().requires_grad_()
    loss, expected = (
        factor_distance(student, teacher, distance),
        factor_distance(exact, teacher.double(), distance),
    )
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert student.grad is not None and exact.grad is not None
    assert (student.grad - exact.grad).norm() < 1e-5 * exact.grad.norm()


@pytest.mark.parametrize('reduction', ['mean', 'size_invariant'])
@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('shapes', [((1, 5), (1, 5)), ((2, 3, 2, 4), (2, 3, 4, 2))])
def test_factor_distance_gradient_matches_finite_differences(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], distance: str, reduction: str
) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: factor_distance(s, teacher, distance, reduction), (student,)
    )


@pytest.mark.parametrize('distance', DISTANCES)
def test_factor_distance_is_invariant_to_the_scale_of_an_image_and_to_order(
    distance: str,
) -> None:
    student, teacher = (
        torch.randn(4, 3, 2, 2, dtype=torch.float64),
        torch.randn(4, 3, 2, 2, dtype=torch.float64),
    )
    scale = torch.tensor([1e-3, 1.0, 7.0, 1e3], dtype=torch.float64).view(4, 1, 1, 1)
    assert factor_distance(scale * student, student, distance).item() == pytest.approx(
        0.0, abs=1e-12
    )
    images, channels = torch.randperm(4), torch.randperm(3)
    loss = factor_distance(student, teacher, distance)
    torch.testing.assert_close(factor_distance(scale * student, teacher / scale, distance), loss)
    moved = factor_distance(student[images][:, channels], teacher[images][:, channels], distance)
    torch.testing.assert_close(moved, loss)


@pytest.mark.parametrize('distance', ['l1', 'l2', 'partial_l2'])
def test_factor_distance_shrinks_with_the_size_unless_size_invariant(distance: str) -> None:
    # A factor beside k copies of itself has the same directions, and sqrt(k) times the norm.
    student, teacher = (
        torch.randn(3, 2048, dtype=torch.float64),
        torch.randn(3, 2048, dtype=torch.float64),
    )
    at_2048 = factor_distance(student, teacher, distance)
    larger = student.repeat(1, 9), teacher.repeat(1, 9)
    shrunk = at_2048 / (3.0 if distance == 'l1' else 9.0)
    torch.testing.assert_close(factor_distance(*larger, distance), shrunk)
    for pair in ((student, teacher), larger):
        torch.testing.assert_close(
            factor_distance(*pair, distance, reduction='size_invariant'), at_2048
        )


def test_factor_distance_of_opposite_factors_is_its_bound() -> None:
    # Signs of D = 16 elements: each is 1/4 off on either side. l1 is 2/sqrt(D), l2 4/D, the cosine
    # -1.
    factor = torch.tensor([[1.0, -1.0] * 8])
    assert [factor_distance(-factor, factor, d).item() for d in ('l1', 'l2', 'cosine')] == [
        0.5,
        0.25,
        2.0,
    ]


@pytest.mark.parametrize('distance', DISTANCES)
def test_factor_distance_of_two_sizes_pools_before_the_norm(distance: str) -> None:
    # Blocks of 2x2 with the means of BY_HAND, which are then normalised.
    spread = torch.tensor([[1.0, -1.0], [-2.0, 2.0]])
    student = (STUDENT[:, :, None, None] + spread).requires_grad_()
    loss = factor_distance(student, TEACHER[:, :, None, None], distance)
    assert loss.item() == pytest.approx(BY_HAND[distance])
    swapped = factor_distance(
        STUDENT[:, :, None, None], TEACHER[:, :, None, None] + spread, distance
    )
    assert swapped.item() == pytest.approx(BY_HAND[distance])


@pytest.mark.parametrize('n', [1, 2])
@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('fill', [0.0, 1e-20, 3.0])
def test_factor_distance_of_a_zero_norm_has_no_gradient(fill: float, distance: str, n: int) -> None:
    student = torch.full((n, 2, 2, 2), fill, requires_grad=True)
    for teacher in (torch.zeros(n, 2, 2, 2), torch.ones(n, 2, 2, 2), torch.randn(n, 2, 2, 2)):
        loss = factor_distance(student, teacher, distance)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite() and gradient.isfinite().all()
        assert fill == 3.0 or (gradient == 0.0).all()


@pytest.mark.parametrize('shapes', [((4, 3, 2, 2), (4, 1, 2, 2)), ((4, 3), (2, 3))])
def test_factor_cosine_of_wrong_shapes_is_refused(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match=r'^factor_cosine: student and teacher must'):
        factor_cosine(*(torch.randn(shape) for shape in shapes))


@pytest.mark.parametrize('distance', DISTANCES)
def test_factor_distance_by_descent_reaches_the_teachers_direction_from_any_scale(
    distance: str,
) -> None:
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64).abs()  # on, also for 'partial_l2'
    student = 50.0 * torch.randn(2, 3, 2, 2, dtype=torch.float64)
    start = factor_distance(student, teacher, distance).item()
    for step in range(150):
        student = student.detach().requires_grad_()
        loss = factor_distance(student, teacher, distance)
        (gradient,) = torch.autograd.grad(loss, student)
        student = student - 50.0 * 0.95**step * gradient / gradient.norm()
    assert loss.item() < 0.1 * start


@pytest.mark.parametrize('word', ['orthogonal', 'cka'])
def test_factor_distance_refuses_the_words_of_exploration(word: str) -> None:
    with raises_config_error('distance', word, *map(repr, DISTANCES)):
        factor_distance(STUDENT, TEACHER, word)
