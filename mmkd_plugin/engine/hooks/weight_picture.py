"""The class x teacher table as a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

#: More rows than this are not told apart on a picture: neither numbers nor every class name are written.
_MOST_ROWS = 40


def weight_picture(
    table: NDArray[np.float32], classes: Sequence[str], teachers: Sequence[str], title: str
) -> NDArray[np.uint8]:
    """Draw mean weights (C, T) as an RGB image (H, W, 3); a class that was not seen stays white.

    Colours run from 0 to the largest weight; the uniform weight 1/T is marked on the colour bar.
    """
    rows, columns = table.shape
    figure = Figure(
        figsize=(2.4 + 0.9 * columns, 1.4 + 0.3 * min(rows, _MOST_ROWS)),
        dpi=100,
        layout='constrained',
    )
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    top = float(np.nanmax(table))
    image = axes.imshow(table, aspect='auto', cmap='viridis', vmin=0.0, vmax=top)
    axes.set_xticks(range(columns), teachers, rotation=20 if columns > 3 else 0)
    if rows <= _MOST_ROWS:
        axes.set_yticks(range(rows), classes)
        for row, column in np.ndindex(rows, columns):
            if np.isfinite(table[row, column]):
                ink = 'black' if table[row, column] > 0.6 * top else 'white'
                axes.text(
                    column,
                    row,
                    f'{table[row, column]:.2f}',
                    ha='center',
                    va='center',
                    color=ink,
                    fontsize=8,
                )
    axes.set_xlabel('teacher')
    axes.set_ylabel('class')
    axes.set_title(title, fontsize=10)
    bar = figure.colorbar(image, ax=axes, label='mean weight')
    bar.ax.axhline(1 / columns, color='white', linewidth=2)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
