import math

import pytest
import torch

from mmkd_plugin.models.losses import InheritanceLoss, inheritance_loss
from mmkd_plugin.models.losses.factor_distance import DISTANCES
from mmkd_plugin.registry import MODELS


def test_value_derived_by_hand() -> None:
    # (3, 4) over 5 is (.6, .8), (0, 2) over 2 is (0, 1): |.6| + |-.2| = .8, over 2 elements .4. Squares .36 + .04: .2. The
    # cosine is .8. Partial: no element is off on both sides, .2.
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    losses = [inheritance_loss(student, teacher, distance).item() for distance in DISTANCES]
    assert losses == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert inheritance_loss(student, teacher).item() == losses[0]
    # D = 2: sqrt(2 / 2048) = 1 / 32 of it.
    assert inheritance_loss(student, teacher, reduction='size_invariant').item() == pytest.approx(
        0.4 / 32
    )


def test_agrees_with_a_loop_in_float64() -> None:
    student, teacher = (
        torch.randn(3, 2, 4, 4, dtype=torch.float64),
        torch.randn(3, 2, 4, 4, dtype=torch.float64),
    )
    expected = 0.0
    for s_map, t_map in zip(student, teacher, strict=True):
        s, t = s_map.flatten().tolist(), t_map.flatten().tolist()
        s_norm, t_norm = math.hypot(*s), math.hypot(*t)
        expected += sum(abs(a / s_norm - b / t_norm) for a, b in zip(s, t, strict=True)) / (3 * 32)
    assert inheritance_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('distance', DISTANCES)
def test_descent_leads_to_the_teachers_direction_from_any_scale(distance: str) -> None:
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64).abs()  # on: 'partial_l2' sees all of it
    student = 50.0 * torch.randn(2, 3, 2, 2, dtype=torch.float64)
    start = inheritance_loss(student, teacher, distance).item()
    for step in range(150):
        student = student.detach().requires_grad_()
        loss = inheritance_loss(student, teacher, distance)
        (gradient,) = torch.autograd.grad(loss, student)
        student = student - 50.0 * 0.95**step * gradient / gradient.norm()
    assert loss.item() < 0.1 * start


@pytest.mark.parametrize('distance', DISTANCES)
@pytest.mark.parametrize('shapes', [((1, 4), (1, 4)), ((2, 2, 2, 2), (2, 2, 4, 4))])
def test_gradient_reaches_the_student_alone(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], distance: str
) -> None:
    student, teacher = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    assert torch.autograd.gradcheck(lambda s: inheritance_loss(s, teacher, distance), (student,))
    inheritance_loss(student, teacher, distance).backward()
    assert teacher.grad is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (
        (400.0 * torch.randn(1, 3, 4, 4)).to(dtype).requires_grad_(),
        torch.randn(1, 3, 2, 2).to(dtype),
    )
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = inheritance_loss(student, teacher)
    loss.backward()
    assert (
        loss.dtype == torch.float32
        and loss.item() == inheritance_loss(student.float(), teacher.float()).item()
    )
    assert (
        student.grad is not None and student.grad.isfinite().all() and (student.grad != 0.0).any()
    )


def test_shapes_are_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r'got student \(4, 3, 2, 2\), teacher \(4, 5, 2, 2\)'):
        inheritance_loss(torch.randn(4, 3, 2, 2), torch.randn(4, 5, 2, 2))


def test_words_must_be_known() -> None:
    for word in ('orthogonal', 'cka'):  # for exploration alone
        with pytest.raises(ValueError, match=f"distance: expected one of 'l1', .* got '{word}'"):
            inheritance_loss(torch.randn(2, 3), torch.randn(2, 3), word)
        with pytest.raises(ValueError, match=f"distance: expected one of 'l1', .* got '{word}'"):
            InheritanceLoss(distance=word)
    with pytest.raises(ValueError, match='reduction: expected one of'):
        InheritanceLoss(reduction='sum')


@pytest.mark.parametrize('loss_weight', [-1.0, math.nan])
def test_a_negative_weight_is_refused(loss_weight: float) -> None:
    with pytest.raises(ValueError, match='loss_weight: expected a number >= 0, got'):
        InheritanceLoss(loss_weight=loss_weight)


def test_module_is_the_weighted_function() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    config = dict(
        type='InheritanceLoss', loss_weight=50.0, distance='l2', reduction='size_invariant'
    )
    expected = 50.0 * inheritance_loss(student, teacher, 'l2', 'size_invariant')
    torch.testing.assert_close(MODELS.build(config)(student, teacher), expected)
