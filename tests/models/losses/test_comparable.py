import pytest
import torch

from mmkd_plugin.models.losses.comparable import comparable, same_size, widened


def test_the_larger_map_is_averaged_to_the_smaller_on_each_side() -> None:
    # 2x1 against 1x2: both go to 1x1, (1 + 3) / 2 and (4 + 8) / 2.
    tall, wide = torch.tensor([[[[1.0], [3.0]]]]), torch.tensor([[[[4.0, 8.0]]]])
    assert [x.tolist() for x in same_size(tall, wide)] == [[[[[2.0]]]], [[[[6.0]]]]]


def test_what_needs_nothing_is_not_copied() -> None:
    student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 8, 8)
    assert comparable('loss', student, teacher)[0] is student
    equal = comparable('loss', student, teacher[..., :4, :4])
    assert equal[0] is student and equal[1].data_ptr() == teacher.data_ptr()


@pytest.mark.parametrize(
    ('student', 'teacher', 'common'),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float64, torch.float64),
    ],
)
def test_one_dtype_of_at_least_float32_and_a_teacher_without_gradient(
    student: torch.dtype, teacher: torch.dtype, common: torch.dtype
) -> None:
    pair = (
        torch.randn(2, 3).to(student).requires_grad_(),
        torch.randn(2, 3).to(teacher).requires_grad_(),
    )
    wide = widened(*pair)
    assert [x.dtype for x in wide] == [common, common]
    assert [x.requires_grad for x in wide] == [True, False]


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
def test_shapes_and_who_asks_are_named_in_the_error(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(
        ValueError, match=r'^that_loss compares .* same N and C: got student'
    ) as error:
        comparable('that_loss', torch.randn(student), torch.randn(teacher))
    assert str(error.value).endswith(f'got student {student}, teacher {teacher}')
