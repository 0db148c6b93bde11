import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.losses.functional import (
    EPS,
    align,
    at_least_float32,
    gather_rows,
    inverse_norm,
    match_spatial_size,
    partial_squares_,
    pool_to,
    unit_difference,
    weighted_mean,
    wrong_shapes,
)


@pytest.mark.parametrize(
    ('one', 'other', 'common'),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float64, torch.float64),
        (torch.int64, torch.bool, torch.float32),
    ],
)
def test_at_least_float32_gives_the_common_dtype(
    one: torch.dtype, other: torch.dtype, common: torch.dtype
) -> None:
    pair = torch.ones(2, 3).to(one), torch.ones(2, 3).to(other)
    assert [x.dtype for x in at_least_float32(*pair)] == [common, common]
    assert [at_least_float32(x).dtype for x in pair] == [
        torch.promote_types(x.dtype, torch.float32) for x in pair
    ]


def test_at_least_float32_of_wide_tensors_copies_nothing() -> None:
    x, y = torch.ones(2), torch.ones(3)
    assert at_least_float32(x) is x
    assert all(a is b for a, b in zip(at_least_float32(x, y), (x, y), strict=True))


def test_align_of_aligned_tensors_copies_nothing() -> None:
    student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 8, 8)
    assert align('loss', student, teacher)[0] is student
    equal = align('loss', student, teacher[..., :4, :4])
    assert equal[0] is student and equal[1].data_ptr() == teacher.data_ptr()


def test_align_detaches_the_teacher_alone_and_widens_both() -> None:
    pair = torch.randn(2, 3).half().requires_grad_(), torch.randn(2, 3).double().requires_grad_()
    aligned = align('loss', *pair)
    assert [x.requires_grad for x in aligned] == [True, False]
    assert [x.dtype for x in aligned] == [torch.float64, torch.float64]


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        ((4, 3, 2, 2), (4, 1, 2, 2)),  # would broadcast
        ((1, 3, 2, 2), (4, 3, 2, 2)),
        ((4, 3, 1, 1), (4, 3)),
        ((4, 3), (4, 1)),
        ((4, 3, 2), (4, 3, 2)),
    ],
)
def test_align_of_wrong_shapes_names_the_caller_and_the_shapes(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r'^that_loss: student and teacher must') as error:
        align('that_loss', torch.randn(student), torch.randn(teacher))
    assert str(error.value).endswith(f'(found student {student}, teacher {teacher}).')


@pytest.mark.parametrize('size', [(3, 4), (6, 2), (1, 1), (5, 3), (4, 7), (6, 8)])
def test_pool_to_equals_adaptive_pooling_with_its_gradient(size: tuple[int, int]) -> None:
    weights = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    found = []
    for deterministic in (True, False):
        x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        torch.use_deterministic_algorithms(deterministic)
        try:
            pooled = pool_to(x, size)
        finally:
            torch.use_deterministic_algorithms(False)
        (pooled * weights).sum().backward()
        found.append((pooled, x.grad))
    expected = torch.nn.functional.adaptive_avg_pool2d(x, size)
    torch.testing.assert_close(found[1][0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


def test_deterministic_pooling_never_calls_the_adaptive_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.nn.functional, 'adaptive_avg_pool2d', None)  # its gradient fails
    monkeypatch.setattr(torch, 'are_deterministic_algorithms_enabled', lambda: True)
    assert pool_to(torch.ones(1, 1, 5, 7), (2, 3)).shape == (1, 1, 2, 3)


def test_match_spatial_size_takes_the_smaller_of_each_side() -> None:
    # 2x1 against 1x2: both become 1x1, (1 + 3) / 2 and (4 + 8) / 2.
    tall, wide = torch.tensor([[[[1.0], [3.0]]]]), torch.tensor([[[[4.0, 8.0]]]])
    assert [x.tolist() for x in match_spatial_size(tall, wide)] == [[[[[2.0]]]], [[[[6.0]]]]]


@pytest.mark.parametrize('shape', [(1, 1), (3, 7), (2, 3, 4, 5)])
def test_inverse_norm_is_over_all_of_an_image(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    expected = [
        1.0 / sum(value * value for value in image.flatten().tolist()) ** 0.5 for image in x
    ]
    assert inverse_norm(x).flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert inverse_norm(x).shape == (shape[0], *[1] * (len(shape) - 1))


def test_inverse_norm_of_a_detectors_map_is_within_1e_6_of_float64() -> None:
    x = torch.randn(1, 256, 50, 84)
    torch.testing.assert_close(
        inverse_norm(x).double(), inverse_norm(x.double()), rtol=1e-6, atol=0.0
    )


def test_unit_difference_has_the_value_derived_by_hand() -> None:
    # (3, 4) has norm 5, (0, -2) norm 2: (0.6, 0.8) - (0, -1) = (0.6, 1.8).
    difference = unit_difference(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -2.0]]))
    torch.testing.assert_close(difference, torch.tensor([[0.6, 1.8]]))


def test_unit_difference_leaves_its_inputs_as_they_are() -> None:
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    kept = student.clone(), teacher.clone()
    unit_difference(student, teacher)
    assert torch.equal(student, kept[0]) and torch.equal(teacher, kept[1])


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 2, 2)])
def test_unit_difference_of_a_zero_norm_has_no_gradient_for_that_image_alone(
    shape: tuple[int, ...],
) -> None:
    student = torch.randn(shape)
    student[0] = 0.0
    student.requires_grad_()
    unit_difference(student, torch.zeros(shape)).square()[:, 0].sum().backward()
    assert inverse_norm(student).flatten()[0].item() == 0.0
    assert student.grad is not None
    assert (student.grad[0] == 0.0).all() and (student.grad[1] != 0.0).any()


def test_unit_difference_just_above_eps_has_the_gradient_derived_by_hand() -> None:
    student = torch.full((1, 4), EPS).requires_grad_()  # norm 2e-12
    unit_difference(student, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))[0, 0].backward()
    # d u_0 / d x_i = (1[i=0] - u_0 u_i) / norm = (1[i=0] - 1/4) / 2e-12.
    torch.testing.assert_close(
        student.grad, torch.tensor([[0.75, -0.25, -0.25, -0.25]]) / (2.0 * EPS)
    )


def test_unit_difference_of_nan_is_nan() -> None:
    assert unit_difference(torch.tensor([[torch.nan, 1.0]]), torch.ones(1, 2)).isnan().all()


def test_partial_squares_have_the_values_derived_by_hand() -> None:
    # Both off, student below (skipped) · both off, equal (skipped, and 0) · off, student above ·
    # on above zero · teacher on.
    student = torch.tensor([-3.0, -1.0, -1.0, 2.0, -1.0])
    target = torch.tensor([-1.0, -1.0, -2.0, -1.0, 1.0])
    assert partial_squares_(student - target, target).tolist() == [0.0, 0.0, 1.0, 9.0, 4.0]


def test_partial_squares_of_a_target_of_zero_count_from_above_alone() -> None:
    target = torch.zeros(2)
    assert partial_squares_(torch.tensor([-2.0, 2.0]), target).tolist() == [0.0, 4.0]


def test_partial_squares_gradient_matches_finite_differences() -> None:
    target = torch.randn(20, dtype=torch.float64)

    def loss(student: Tensor) -> Tensor:
        return partial_squares_(student - target, target)

    student = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (student,))


def test_partial_squares_of_nan_are_nan() -> None:
    target = torch.tensor([-1.0])
    assert partial_squares_(torch.tensor([torch.nan]), target).isnan().all()


def test_weighted_mean_is_a_mean_or_the_weighted_sum() -> None:
    rows = torch.tensor([1.0, 3.0, 5.0], requires_grad=True)
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert weighted_mean('loss', rows, None).item() == 3.0
    total = weighted_mean('loss', rows, weights)
    total.backward()
    assert total.item() == 10.5 and total.dtype == torch.float32
    assert rows.grad is not None and rows.grad.tolist() == [0.5, 0.0, 2.0]
    assert weights.grad is None


def test_weighted_mean_of_no_rows_is_zero_with_a_graph() -> None:
    rows = torch.zeros(0, requires_grad=True)
    total = weighted_mean('loss', rows, torch.zeros(0))
    total.backward()
    assert total.item() == 0.0


def test_weighted_mean_of_wrong_weights_names_the_caller_and_the_shape() -> None:
    with pytest.raises(ValueError, match=r'^that_loss: weights must be \(2,\)') as error:
        weighted_mean('that_loss', torch.ones(2), torch.ones(2, 1))
    assert str(error.value).endswith('(found weights (2, 1)).')


def test_gather_rows_in_one_process_returns_the_rows() -> None:
    rows = torch.ones(3, 2)
    assert gather_rows(rows) is rows


def test_wrong_shapes_lists_all_tensors() -> None:
    tensors = dict(a=torch.ones(1), b=torch.ones(2, 3), c=torch.ones(()))
    assert str(wrong_shapes('f', 'must be equal', **tensors)) == (
        'f: a, b and c must be equal (found a (1,), b (2, 3), c ()).'
    )
