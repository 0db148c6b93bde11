"""The parts of FGD against loops in float64."""

import math

import pytest
import torch
from torch import Tensor

from mmkd_plugin.models.losses.fgd import fgd_attention, fgd_focal_losses, object_masks

IMAGE, MAP = (64, 96), (4, 6)  # cells of 16 pixels
NONE = torch.zeros(0, 4)


def masks_by_loops(boxes: Tensor) -> tuple[list[list[float]], list[list[float]]]:
    rows, columns = MAP
    inside = [[0.0] * columns for _ in range(rows)]
    for left, top, right, bottom in boxes.tolist():
        left, right = (min(max(v, 0), IMAGE[1]) for v in (left, right))
        top, bottom = (min(max(v, 0), IMAGE[0]) for v in (top, bottom))
        if right <= left or bottom <= top:
            continue
        xs = range(math.floor(left / 16), min(math.ceil(right / 16), columns - 1) + 1)
        ys = range(math.floor(top / 16), min(math.ceil(bottom / 16), rows - 1) + 1)
        for y in ys:
            for x in xs:
                inside[y][x] = max(inside[y][x], 1 / (len(xs) * len(ys)))
    free = sum(value == 0 for row in inside for value in row)
    return inside, [[(value == 0) / max(free, 1) for value in row] for row in inside]


@pytest.mark.parametrize(
    'boxes',
    [
        [],
        [[3, 5, 40, 50]],
        [[16, 16, 32, 32], [20, 0, 90, 60]],
        [[-50, -20, 10, 10]],
        [[80, 40, 500, 400]],
        [[0, 0, 96, 64]],
        [[200, 200, 300, 300]],
        [[-40, -40, -3, -3]],
        [[10, 10, 10, 30], [30, 30, 20, 20]],
    ],
    ids=str,
)
def test_masks_equal_those_by_loops(boxes: list[list[float]]) -> None:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    foreground, background = object_masks([NONE, corners], IMAGE, MAP)
    for n, one in enumerate((NONE, corners)):
        expected = masks_by_loops(one)
        torch.testing.assert_close(foreground[n, 0], torch.tensor(expected[0]))
        torch.testing.assert_close(background[n, 0], torch.tensor(expected[1]))


def test_box_outside_the_image_or_without_area_is_background() -> None:
    boxes = torch.tensor([[200.0, 0, 300, 60], [10, 10, 10, 30], [float('nan')] * 4])
    foreground, background = object_masks([boxes], IMAGE, MAP)
    assert not foreground.any()
    assert background.sum().item() == pytest.approx(1.0)


def test_box_of_the_whole_image_leaves_no_background() -> None:
    foreground, background = object_masks([torch.tensor([[0.0, 0, 96, 64]])], IMAGE, MAP)
    assert foreground.sum().item() == pytest.approx(1.0) and not background.any()


def test_attention_equals_that_by_loops() -> None:
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    locations, channels = fgd_attention(x, 0.5)
    for n in range(2):
        energy = [[sum(abs(x[n, c, i, j].item()) for c in range(3)) / 3 / 0.5 for j in range(4)]
                  for i in range(2)]  # fmt: skip
        total = sum(math.exp(v) for row in energy for v in row)
        expected = [[8 * math.exp(v) / total for v in row] for row in energy]
        torch.testing.assert_close(locations[n, 0], torch.tensor(expected).double())
        energy = [sum(abs(v) for v in x[n, c].flatten().tolist()) / 8 / 0.5 for c in range(3)]
        total = sum(map(math.exp, energy))
        found = [3 * math.exp(v) / total for v in energy]
        torch.testing.assert_close(channels[n, :, 0, 0], torch.tensor(found).double())


def test_focal_losses_equal_those_by_loops() -> None:
    student, teacher = (torch.randn(2, 3, *MAP, dtype=torch.float64) for _ in range(2))
    masks = object_masks([NONE, torch.tensor([[3.0, 5, 40, 50]])], IMAGE, MAP)
    found = fgd_focal_losses(student, teacher, *masks)
    own, target = fgd_attention(student), fgd_attention(teacher)
    expected = [0.0, 0.0, 0.0]
    for n in range(2):
        for i in range(MAP[0]):
            for j in range(MAP[1]):
                for c in range(3):
                    error = (student[n, c, i, j] - teacher[n, c, i, j]).item() ** 2
                    error *= target[0][n, 0, i, j].item() * target[1][n, c, 0, 0].item()
                    for k in range(2):
                        expected[k] += masks[k][n, 0, i, j].item() * error / 2
                expected[2] += abs((own[0] - target[0])[n, 0, i, j].item()) / 2
        expected[2] += sum(abs((own[1] - target[1])[n, c].item()) for c in range(3)) / 2
    assert [one.item() for one in found] == pytest.approx(expected, rel=1e-6)


def test_gradient_is_that_of_finite_differences() -> None:
    student, teacher = (torch.randn(1, 2, *MAP, dtype=torch.float64) for _ in range(2))
    masks = [one.double() for one in object_masks([torch.tensor([[3.0, 5, 40, 50]])], IMAGE, MAP)]
    assert torch.autograd.gradcheck(
        lambda x: sum(fgd_focal_losses(x, teacher, *masks)), student.requires_grad_()
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('fill', [0.0, 1e4, -1e4])
@pytest.mark.parametrize('size', [(1, 1), (2, 3)])
def test_extreme_maps_are_finite(dtype: torch.dtype, fill: float, size: tuple[int, int]) -> None:
    student = torch.full((1, 2, *size), fill, dtype=dtype).requires_grad_()
    losses = fgd_focal_losses(student, torch.randn(1, 2, *size), *object_masks([NONE], IMAGE, size))
    sum(losses).backward()
    assert all(one.isfinite() and one.dtype == torch.float32 for one in losses)
    assert losses[0] == 0 and student.grad.isfinite().all()


def test_wrong_shapes_are_refused() -> None:
    x, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    for wrong in ((x, x[:, :1], mask, mask), (x, x, mask[0], mask), (x, x, mask, mask[:, :, :1])):
        with pytest.raises(ValueError, match=r'^fgd_focal_losses: '):
            fgd_focal_losses(*wrong)
