"""Box outputs of dense heads, beside their class scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmkd_plugin.anchors import AnchorGrid, DeltaCoder

Levels = tuple[tuple[int, int, int], ...]
#: Meanings of the four values of a location; see :class:`BoxOutputs`.
KINDS = ('delta', 'distance', 'distribution')


@dataclass(frozen=True, eq=False)
class BoxOutputs:
    """Boxes of a batch as a dense head outputs them, at the locations of its class scores.

    Args:
        values: (N, A, 4), or (N, A, 4, bins) for distributions. A runs as in
            :class:`~mmkd_plugin.outputs.ClassScores`.
        kind: ``'delta'``: offsets relative to an anchor or a cell, under ``coding``.
            ``'distance'``: pixels from the point of the location to the left, top, right and bottom
            side. ``'distribution'``: logits over such distances in strides, bin by bin.
        coding: How deltas are coded, in words.
        priors: Anchors, or points, of the first cell of each level, in pixels.
        levels: (rows, columns, anchors) of each level.
        valid: Mask of the locations that count, (N, A), as that of the class scores.
        anchors: Anchors of each level; empty if the head has points, or is unknown.
        coder: How deltas are decoded; None if that is unknown.

    Example:
        >>> boxes = BoxOutputs(torch.zeros(2, 12, 4, 17), 'distribution', levels=((3, 4, 1),))
        >>> boxes.bins
        17
        >>> print(boxes)
        distribution of 17 bins, 1 levels of (rows x columns x anchors) 3x4x1
    """

    values: Tensor
    kind: str
    coding: str = ''
    priors: tuple[tuple[float, ...], ...] = ()
    levels: Levels = ()
    valid: Tensor | None = None
    anchors: tuple[AnchorGrid, ...] = ()
    coder: DeltaCoder | None = None

    @property
    def bins(self) -> int:
        """Number of bins of a distribution; 1 for other kinds."""
        return self.values.shape[3] if self.values.ndim == 4 else 1

    @property
    def layout(self) -> object:
        """All that two networks must share, so that their boxes can be compared."""
        return self.kind, self.bins, self.coding, self.priors, self.levels

    def detach(self) -> 'BoxOutputs':
        """Return the same boxes without gradient."""
        return replace(self, values=self.values.detach())

    def on_levels(self, levels: Levels) -> 'BoxOutputs':
        """Cut each level to the given rows and columns, as the class scores are."""
        if levels == self.levels:
            return self
        valid = None if self.valid is None else cut(self.valid, self.levels, levels)
        values = cut(self.values, self.levels, levels)
        return replace(self, values=values, levels=levels, valid=valid)

    @property
    def decodable(self) -> bool:
        """Whether :meth:`corners` is known."""
        if self.kind != 'delta':
            return True
        bounded = self.coder is not None and self.coder.centre_limit is not None
        return self.coder is not None and (bool(self.anchors) or not bounded)

    def corners(self) -> Tensor:
        """Decode the boxes, each in a frame of its location: (N, A, 4), in float32 or wider.

        The frame begins at the point or the centre of the anchor. Its unit is a pixel for
        distances, a stride for distributions, and the size of the anchor or cell for deltas. An
        IoU of two boxes of one location is that of the boxes in pixels.

        Raises:
            ValueError: If they are not :attr:`decodable`.
        """
        values = self.values.to(torch.promote_types(self.values.dtype, torch.float32))
        if self.kind == 'delta':
            if self.coder is None:
                raise ValueError(f'the coding of deltas is unknown: {self}')
            bounded = self.coder.centre_limit is not None
            return self.coder.decode(values, self.anchor_boxes() if bounded else None)
        if self.kind == 'distribution':
            steps = torch.arange(self.bins, dtype=values.dtype, device=values.device)
            values = values.softmax(dim=3) @ steps
        return values * values.new_tensor([-1.0, -1.0, 1.0, 1.0])

    def anchor_boxes(self) -> Tensor:
        """Return the corners of the anchors of all locations, (A, 4), in pixels."""
        dtype = torch.promote_types(self.values.dtype, torch.float32)
        like = torch.empty(0, dtype=dtype, device=self.values.device)
        grids = zip(self.anchors, self.levels, strict=True)
        return torch.cat([grid.boxes(rows, columns, like) for grid, (rows, columns, _) in grids])

    def __str__(self) -> str:
        coding = f' ({self.coding})' if self.coding else ''
        kind = f'{self.kind} of {self.bins} bins' if self.bins > 1 else f'{self.kind}{coding}'
        first = [', '.join(f'{value:g}' for value in level[:4]) for level in self.priors]
        priors = f'; the first anchor or point of each level is at ({"), (".join(first)})'
        return f'{kind}, {show_levels(self.levels)}{priors if first else ""}'


def show_levels(levels: Levels) -> str:
    """Return the sizes of levels in words."""
    sizes = ', '.join('x'.join(map(str, level)) for level in levels)
    return f'{len(levels)} levels of (rows x columns x anchors) {sizes}'


def common_levels(*levels: Levels) -> Levels:
    """Return the rows and columns of each level that all networks share.

    Example:
        >>> common_levels(((8, 8, 1), (4, 4, 1)), ((8, 6, 1), (4, 3, 1)))
        ((8, 6, 1), (4, 3, 1))
    """
    same = zip(*levels, strict=True)
    return tuple((min(one[0] for one in of), min(one[1] for one in of), of[0][2]) for of in same)


def cut(values: Tensor, own: Levels, levels: Levels) -> Tensor:
    """Cut each level of values (N, A, …) to the given rows and columns, from the top left."""
    parts: Sequence[Tensor] = values.split(
        [rows * columns * anchors for rows, columns, anchors in own], 1
    )
    kept = [
        part.unflatten(1, size)[:, :rows, :columns].flatten(1, 3)
        for part, size, (rows, columns, _) in zip(parts, own, levels, strict=True)
    ]
    return torch.cat(kept, dim=1)


@dataclass(frozen=True, eq=False)
class ObjectBoxes:
    """Boxes of the annotated objects of a batch, in pixels of the padded images.

    Args:
        boxes: Corners (left, top, right, bottom) of each image's objects, (M, 4) each.
        size: (height, width) of the padded images.
        areas: (height, width) of each image with its own padding, up to a multiple of the stride.
            MMDet's assigners look for locations in it. Empty if unknown.
    """

    boxes: tuple[Tensor, ...]
    size: tuple[int, int]
    areas: tuple[tuple[int, int], ...] = ()
