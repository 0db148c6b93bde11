"""Layouts of tapped tensors: which axes hold channels, rows and columns; measured, not guessed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmkd_plugin.errors import ConfigError

#: Shapes of the tapped tensors for blank images of a size (height, width); None if the network
#: does not accept the size.
Run = Callable[[tuple[int, int]], Mapping[str, tuple[int, ...]] | None]


@dataclass(frozen=True)
class Layout:
    """How a tensor of one row an image becomes a map (N, C, H, W).

    Args:
        positions: Axes of the rows and columns of a map, ``(2, 3)`` or ``(1, 2)``; the axis of the
            tokens of a sequence, ``(1,)`` or ``(2,)``; empty for tensors without positions, which
            stay as they are.
        extra: Number of leading tokens that show no place of the image, such as a class token.

    Example:
        >>> Layout((1,), extra=1).to_map(torch.zeros(2, 17, 8), (64, 64), 'tap', 'key').shape
        torch.Size([2, 8, 4, 4])
        >>> Layout((1, 2)).to_map(torch.zeros(2, 4, 4, 8), (64, 64), 'tap', 'key').shape
        torch.Size([2, 8, 4, 4])
    """

    positions: tuple[int, ...] = ()
    extra: int = 0

    def to_map(self, tensor: Tensor, size: Sequence[int], tap: str, key: str) -> Tensor:
        """Return the map (N, C, H, W), or the tensor itself if it has no positions.

        Args:
            tensor: Recorded tensor of the tap.
            size: (height, width) of the network's input.
            tap: The tap, for messages.
            key: The config key of the network, for messages.

        Raises:
            ConfigError: If the tokens do not form a grid of the input's proportions.
        """
        if self.positions in ((), (2, 3)):
            return tensor
        if tensor.ndim != len(self.positions) + 2:  # another form; the first batch is checked
            return tensor
        if self.positions == (1, 2):
            return tensor.permute(0, 3, 1, 2)
        tokens = tensor if self.positions == (1,) else tensor.transpose(1, 2)
        count = tokens.shape[1] - self.extra
        grid = grid_of(count, size)
        if grid is None:
            raise ConfigError(
                key,
                f'the {count} tokens of {tap!r} form no grid in the proportions of the input '
                f'(height, width) = {tuple(size)}',
                'Tap another module, or train on inputs whose sides are multiples of the stride.',
                found=tuple(tensor.shape),
            )
        return tokens[:, self.extra :].transpose(1, 2).unflatten(2, grid)

    def from_map(self, feature: Tensor, output: Tensor) -> Tensor:
        """Return a map in the form of the ``output`` that it was made of; extra tokens stay."""
        if self.positions in ((), (2, 3)):
            return feature
        if self.positions == (1, 2):
            return feature.permute(0, 2, 3, 1)
        axis = self.positions[0]
        places = feature.flatten(2)
        if axis == 1:
            places = places.transpose(1, 2)
        return torch.cat([output.narrow(axis, 0, self.extra), places], dim=axis)


def grid_of(count: int, size: Sequence[int]) -> tuple[int, int] | None:
    """Return rows and columns of ``count`` tokens in the proportions of the input, or None.

    Example:
        >>> grid_of(32, (64, 128)), grid_of(31, (64, 128))
        ((4, 8), None)
    """
    if count < 1:
        return None
    ratio = size[0] / size[1]
    # The product of two numbers that is nearest to the proportions.
    rows = min(
        (n for n in range(1, count + 1) if count % n == 0),
        key=lambda n: abs(math.log(n * n / count / ratio)),
    )
    columns = count // rows
    # One more row or column than the proportions ask for is what padding to a stride makes.
    wanted_rows, wanted_columns = (count * ratio) ** 0.5, (count / ratio) ** 0.5
    if abs(rows - wanted_rows) >= 1 and abs(columns - wanted_columns) >= 1:
        return None
    return rows, columns


def measure_layouts(
    shapes: Mapping[str, tuple[int, ...]], size: tuple[int, int], run: Run
) -> dict[str, Layout | None]:
    """Measure the layouts of tapped tensors by a run on images of twice the width.

    The axis that grows holds the columns or the tokens. A network that accepts one size alone
    shows its layout only where its shapes allow a single reading.

    Args:
        shapes: Shapes of the tensors by tap, for images of ``size``.
        size: (height, width).
        run: Runs the network on blank images of another size.

    Returns:
        A layout by tap; None where the measurement does not decide.

    Example:
        >>> def run(size):
        ...     rows, columns = size[0] // 16, size[1] // 16
        ...     return dict(conv=(1, 8, rows, columns), tokens=(1, 1 + rows * columns, 8))
        >>> found = measure_layouts(run((64, 64)), (64, 64), run)
        >>> found['conv'], found['tokens']
        (Layout(positions=(2, 3), extra=0), Layout(positions=(1,), extra=1))
    """
    open_taps = {tap: shape for tap, shape in shapes.items() if len(shape) in (3, 4)}
    found: dict[str, Layout | None] = {
        tap: Layout() for tap, shape in shapes.items() if tap not in open_taps
    }
    wide = run((size[0], 2 * size[1])) if open_taps else None
    for tap, shape in open_taps.items():
        if wide is None or len(wide.get(tap, ())) != len(shape):
            found[tap] = _of_one_size(shape, size)
        else:
            found[tap] = _of_two_sizes(shape, wide[tap], size)
    return {tap: found[tap] for tap in shapes}


def _of_two_sizes(
    shape: tuple[int, ...], wide: tuple[int, ...], size: tuple[int, int]
) -> Layout | None:
    grown = [axis for axis, (one, two) in enumerate(zip(shape, wide, strict=True)) if one != two]
    if not grown:  # pooled, queries, or no image at all
        return Layout((2, 3)) if len(shape) == 4 else Layout()
    if len(grown) > 1:
        return None
    axis = grown[0]
    if len(shape) == 4:
        return {3: Layout((2, 3)), 2: Layout((1, 2))}.get(axis)
    if axis == 0:  # windows: the rows are no images
        return None
    places = wide[axis] - shape[axis]
    extra = shape[axis] - places
    if extra < 0 or grid_of(places, size) is None:
        return None
    return Layout((axis,), extra)


def _of_one_size(shape: tuple[int, ...], size: tuple[int, int]) -> Layout | None:
    """Read a layout off one shape, where square images leave a single reading."""
    if len(shape) == 4 and size[0] == size[1]:
        first, last = shape[2] == shape[3], shape[1] == shape[2]
        if first != last:
            return Layout((2, 3)) if first else Layout((1, 2))
    return None
