"""Anchors of dense heads: where they lie, and how boxes are coded as deltas of them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of one level: those of its first cell, repeated in each cell.

    Args:
        first: Corners (left, top, right, bottom) of the anchors of the first cell, in pixels.
        stride: (across, down) from one cell to the next, in pixels.

    Example:
        >>> grid = AnchorGrid(((-4.0, -4.0, 4.0, 4.0),), (8.0, 8.0))
        >>> grid.boxes(1, 2, torch.zeros(()))
        tensor([[-4., -4.,  4.,  4.],
                [ 4., -4., 12.,  4.]])
    """

    first: tuple[tuple[float, ...], ...]
    stride: tuple[float, float]

    def boxes(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return the corners of all anchors, (rows * columns * anchors, 4).

        Args:
            rows: Number of rows.
            columns: Number of columns.
            like: A tensor of the wanted type and device.
        """
        across, down = self.stride
        y = torch.arange(rows, dtype=like.dtype, device=like.device) * down
        x = torch.arange(columns, dtype=like.dtype, device=like.device) * across
        y, x = torch.meshgrid(y, x, indexing='ij')
        shifts = torch.stack([x, y, x, y], dim=2)
        return (shifts[:, :, None] + like.new_tensor(self.first)).flatten(0, 2)

    def begin_inside(self, rows: int, columns: int, area: tuple[int, int]) -> Tensor:
        """Mask the anchors of cells that begin in an area, as MMDet's assigners do.

        Args:
            rows: Number of rows.
            columns: Number of columns.
            area: (height, width), in pixels.

        Returns:
            (rows * columns * anchors,), in the memory of the CPU.
        """
        across, down = self.stride
        cells = (torch.arange(rows) * down < area[0])[:, None] & (
            torch.arange(columns) * across < area[1]
        )
        return cells.flatten().repeat_interleave(len(self.first))


@dataclass(frozen=True)
class DeltaCoder:
    r"""Decode deltas as MMDet's ``DeltaXYWHBBoxCoder`` does, in units of the anchor.

    .. math:: (x, y) = d_{xy}\,\sigma_{xy} + \mu_{xy}, \qquad
              (w, h) = \exp(d_{wh}\,\sigma_{wh} + \mu_{wh})

    The centre :math:`(x, y)` is relative to that of the anchor. Centre and size are in widths and
    heights of the anchor. A shift or scale of an axis does not change an IoU of two such boxes.

    Args:
        means: :math:`\mu`.
        stds: :math:`\sigma`.
        log_limit: Bound of the logarithm of the size on both sides; none by default.
        centre_limit: Bound of the shift of the centre on both sides, in pixels; None for none. The
            logarithm of the size then has an upper bound alone, as in MMDet.

    Example:
        >>> DeltaCoder().decode(torch.tensor([0.25, 0.0, 0.0, 0.0]))
        tensor([-0.2500, -0.5000,  0.7500,  0.5000])
    """

    means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    log_limit: float = math.inf
    centre_limit: float | None = None

    def decode(self, deltas: Tensor, anchors: Tensor | None = None) -> Tensor:
        """Return the corners of boxes, relative to their anchors.

        Args:
            deltas: (…, A, 4).
            anchors: Corners of the anchors in pixels, (A, 4); needed for a ``centre_limit`` alone.

        Returns:
            (…, A, 4): left, top, right and bottom, measured from the centre of the anchor.
        """
        values = deltas * deltas.new_tensor(self.stds) + deltas.new_tensor(self.means)
        centres, logs = values[..., :2], values[..., 2:].clamp(max=self.log_limit)
        if self.centre_limit is None:
            logs = logs.clamp(min=-self.log_limit)
        else:
            if anchors is None:
                raise ValueError('a limit in pixels needs the sizes of the anchors')
            limits = self.centre_limit / (anchors[:, 2:] - anchors[:, :2])
            centres = torch.minimum(torch.maximum(centres, -limits), limits)
        halves = logs.exp() / 2
        return torch.cat([centres - halves, centres + halves], dim=-1)
