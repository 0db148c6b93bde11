"""The parts of FGD's loss: attention, masks of objects, the focal losses (Yang et al., 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses.functional import align, wrong_shapes


def fgd_attention(x: Tensor, temperature: float = 0.5) -> tuple[Tensor, Tensor]:
    r"""Compute the attention over the locations and over the channels of a map.

    .. math:: A^S = HW \cdot \mathrm{softmax}_{hw}\Bigl(\tfrac1{\tau C} \sum_c |x_c|\Bigr), \quad
              A^C = C \cdot \mathrm{softmax}_c\Bigl(\tfrac1{\tau HW} \sum_{hw} |x_{hw}|\Bigr)

    Args:
        x: (N, C, H, W).
        temperature: :math:`\tau`.

    Returns:
        (N, 1, H, W) and (N, C, 1, 1), of mean 1 in each image.

    Example:
        >>> locations, channels = fgd_attention(torch.ones(2, 3, 4, 4))
        >>> locations.shape, channels.shape, locations.unique(), channels.unique()
        (torch.Size([2, 1, 4, 4]), torch.Size([2, 3, 1, 1]), tensor([1.]), tensor([1.]))
    """
    size, energy = x.shape, x.abs()
    of_locations = (energy.mean(dim=1) / temperature).flatten(1).softmax(dim=1)
    of_channels = (energy.mean(dim=(2, 3)) / temperature).softmax(dim=1)
    locations = (size[2] * size[3] * of_locations).view(size[0], 1, *size[2:])
    return locations, (size[1] * of_channels)[..., None, None]


@torch.no_grad()
def object_masks(
    boxes: Sequence[Tensor], image: Sequence[int], size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Weigh the cells of a map inside and outside the boxes of each image.

    A cell in a box has one over the cells of that box; the smallest of several boxes counts. A cell
    in no box has one over the number of such cells. A box reaches from the cell of its left top to
    the one after its right bottom, cut at the edge of the map. Boxes without an area inside the
    image count for nothing.

    Args:
        boxes: Corners (M, 4) in pixels, for each image.
        image: (height, width) of the padded image.
        size: (H, W) of the map.

    Returns:
        Foreground and background, (N, 1, H, W) each.

    Example:
        >>> boxes = [torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.zeros(0, 4)]
        >>> foreground, background = object_masks(boxes, (32, 32), (4, 4))
        >>> foreground[0, 0, 0]
        tensor([0.2500, 0.2500, 0.0000, 0.0000])
        >>> foreground.sum(dim=(1, 2, 3)), background.sum(dim=(1, 2, 3))
        (tensor([1., 0.]), tensor([1., 1.]))
    """
    (height, width), (rows, columns) = image, size
    device = boxes[0].device if boxes else None
    y, x = torch.arange(rows, device=device), torch.arange(columns, device=device)
    foreground = []
    for one in boxes:
        one = one.detach().float().nan_to_num(0.0)
        left, right = (one[:, i].clamp(0, width) for i in (0, 2))
        top, bottom = (one[:, i].clamp(0, height) for i in (1, 3))
        kept = (right > left) & (bottom > top)
        across = (x >= (left / width * columns).floor()[:, None]) & (
            x <= (right / width * columns).ceil()[:, None]
        )
        down = (y >= (top / height * rows).floor()[:, None]) & (
            y <= (bottom / height * rows).ceil()[:, None]
        )
        cells = (across.sum(dim=1) * down.sum(dim=1)).clamp_min(1)
        share = (kept / cells)[:, None, None] * down[:, :, None] * across[:, None, :]
        nothing = share.new_zeros(1, rows, columns)
        foreground.append(torch.cat([nothing, share]).amax(dim=0, keepdim=True))
    inside = torch.stack(foreground)
    outside = (inside == 0).to(inside.dtype)
    return inside, outside / outside.sum(dim=(2, 3), keepdim=True).clamp_min(1)


def fgd_focal_losses(
    student: Tensor,
    teacher: Tensor,
    foreground: Tensor,
    background: Tensor,
    temperature: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Compute FGD's losses on objects, on the background and on the attention.

    .. math:: L_m = \frac1N \sum M_m A^S_t A^C_t (s - t)^2, \quad
              L_a = \frac1N \sum |A^S_s - A^S_t| + \frac1N \sum |A^C_s - A^C_t|

    for the masks of the foreground and of the background, with :func:`fgd_attention`.

    Args:
        student: s, (N, C, H, W). Receives the gradient.
        teacher: t, of the same shape. Receives no gradient.
        foreground: :math:`M_f`, (N, 1, H, W), of :func:`object_masks`.
        background: :math:`M_b`, of the same shape.
        temperature: :math:`\tau`.

    Returns:
        The losses :math:`L_f, L_b, L_a`: scalars in float32 or wider.

    Raises:
        ConfigError: If the temperature is no number > 0.
        ValueError: If the shapes differ.

    Reference:
        Yang et al., Focal and Global Knowledge Distillation for Detectors, CVPR 2022, eq. 3-11. The
        division by N and the teacher's attention on both maps are the authors' code.
    """
    positive_number('temperature', temperature)
    maps = student.ndim == 4 and student.shape == teacher.shape
    size = (len(student), 1, *student.shape[2:])
    if not (maps and foreground.shape == background.shape == size):
        raise wrong_shapes(
            'fgd_focal_losses',
            'must be maps (N, C, H, W) and masks (N, 1, H, W)',
            student=student,
            teacher=teacher,
            foreground=foreground,
            background=background,
        )
    student, teacher = align('fgd_focal_losses', student, teacher)
    images = len(student)
    own, target = fgd_attention(student, temperature), fgd_attention(teacher, temperature)
    error = (student - teacher).square().mul(target[1]).sum(dim=1, keepdim=True) * target[0]
    attention = sum((a - b).abs().sum() for a, b in zip(own, target, strict=True))
    return (
        (error * foreground).sum() / images,
        (error * background).sum() / images,
        torch.as_tensor(attention) / images,
    )
