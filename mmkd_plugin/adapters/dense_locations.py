"""Locations of dense heads: strides, the padding of each image, anchors and points."""

from collections.abc import Sequence
from typing import Any

from mmkd_plugin.anchors import AnchorGrid
from mmkd_plugin.boxes import Levels

#: (across, down) of each level, in pixels.
Strides = tuple[tuple[float, float], ...]


def strides_of(head: Any, size: Sequence[int], levels: Levels) -> tuple[Strides, bool]:
    """Return the strides of a head's levels, and whether the head states them.

    If it states none, or others, they are measured from the sizes of the maps. SOLO resizes
    its maps to grids of a fixed size, whose strides depend on the image.

    Args:
        head: The head.
        size: (height, width) of the input.
        levels: (rows, columns, anchors) of each level.

    Example:
        >>> strides_of(None, (96, 300), ((12, 38, 1), (6, 19, 1)))
        (((8.0, 8.0), (16.0, 16.0)), False)
    """
    height, width = size
    stated = stated_strides(head)
    if len(stated) != len(levels):
        found = tuple((-(-width // columns), -(-height // rows)) for rows, columns, _ in levels)
        return tuple((float(across), float(down)) for across, down in found), False
    agree = all(
        abs(rows - height / down) <= 1 and abs(columns - width / across) <= 1
        for (rows, columns, _), (across, down) in zip(levels, stated, strict=True)
    )
    if agree:
        return stated, True
    return tuple((width / columns, height / rows) for rows, columns, _ in levels), False


def stated_strides(head: Any) -> Strides:
    """Return the (across, down) that a head states for each level, in pixels; empty if none."""
    generators = (getattr(head, name, None) for name in _GENERATORS)
    generator = next((one for one in generators if one is not None), head)
    strides = getattr(generator, 'strides', None)
    if not isinstance(strides, (list, tuple)):
        return ()
    return tuple(
        (float(one[0]), float(one[1])) if isinstance(one, (list, tuple)) else (float(one),) * 2
        for one in strides
    )


def first_priors(head: Any, levels: int, points: bool) -> tuple[tuple[float, ...], ...]:
    """Return the anchors of the first cell of each level, or the point in their middle.

    Args:
        head: The head.
        levels: Number of levels.
        points: Whether the boxes are measured from a point.

    Returns:
        The corners of all anchors, or (x, y), by level; empty if the head has no generator.
    """
    generator = getattr(head, 'prior_generator', None)
    if generator is None:
        return ()
    found = []
    for level in range(levels):
        priors = generator.single_level_grid_priors((1, 1), level, device='cpu')
        if points and priors.shape[-1] == 4:
            priors = (priors[:, :2] + priors[:, 2:]) / 2
        found.append(tuple(round(value, 2) for value in priors.flatten().tolist()))
    return tuple(found)


def anchor_grids(head: Any, levels: int) -> tuple[AnchorGrid, ...]:
    """Return the anchors of each level; empty if the head has points, or no generator.

    Args:
        head: The head.
        levels: Number of levels.
    """
    generator = getattr(head, 'prior_generator', None)
    if generator is None:
        return ()
    found = []
    for level in range(levels):
        corners = generator.single_level_grid_priors((2, 2), level, device='cpu')
        corners = getattr(corners, 'tensor', corners)
        if corners.shape[-1] != 4 or not hasattr(generator, 'base_anchors'):
            return ()  # YOLOX's priors are points and strides
        cells = corners.view(2, 2, -1, 4)
        across, down = (cells[1, 1, 0] - cells[0, 0, 0])[:2].tolist()
        found.append(AnchorGrid(tuple(map(tuple, cells[0, 0].tolist())), (across, down)))
    return tuple(found)


#: Attributes of heads that hold the generator of their anchors or points.
_GENERATORS = ('prior_generator', 'square_anchor_generator')
