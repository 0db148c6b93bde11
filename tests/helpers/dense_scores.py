"""Class scores of a dense head as tensors, with padding, for methods on class scores."""

import torch
from torch import Tensor

from mmkd_plugin.outputs import ClassScores, Levels, NetworkOutput

#: (rows, columns, anchors); the last has one cell.
LEVELS: Levels = ((4, 3, 2), (2, 2, 2), (1, 1, 1))
IMAGES, CLASSES, DIMS = 3, 4, 5
LOCATIONS = sum(rows * columns * anchors for rows, columns, anchors in LEVELS)


def dense_output(
    seed: int,
    student: bool = False,
    activation: str = 'sigmoid',
    classes: int = CLASSES,
    padded: bool = True,
) -> NetworkOutput:
    """Return scores in float64; those of a student have a gradient, and a map ``high``.

    The second of three images is lower and narrower than the batch: :func:`valid_locations`.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = IMAGES, LOCATIONS, classes
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    valid = valid_locations() if padded else None
    scores = ClassScores(
        logits.requires_grad_(student), activation, activation == 'softmax', LEVELS, valid=valid
    )
    if not student:
        return NetworkOutput(scores)
    high = torch.randn(IMAGES, DIMS, 2, 2, generator=generator, dtype=torch.float64)
    return NetworkOutput(scores, {'high': high})


def valid_locations() -> Tensor:
    """Return the mask (N, A): image 1 has 3 of 4 rows and 2 of 3 columns of the first level."""
    parts = []
    for rows, columns, anchors in LEVELS:
        mask = torch.ones(IMAGES, rows, columns, anchors, dtype=torch.bool)
        if rows > 2:
            mask[1, 3:], mask[1, :, 2:] = False, False
        parts.append(mask.flatten(1))
    return torch.cat(parts, dim=1)


def location(level: int, row: int, column: int, anchor: int) -> int:
    """Return the index of a location."""
    before = sum(rows * columns * anchors for rows, columns, anchors in LEVELS[:level])
    _, columns, anchors = LEVELS[level]
    return before + (row * columns + column) * anchors + anchor
