"""The table of a setting as heads and cells, for the Markdown report and for the HTML page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.study.compare import Row


class Cell(NamedTuple):
    """A cell of a table.

    Args:
        text: Content.
        number: The number that a sortable table sorts it by: None for text, NaN for a cell without
            a value in a column of numbers.
        clear: Whether it is a difference whose interval excludes zero.
    """

    text: str
    number: float | None = None
    clear: bool = False


#: In a column of numbers.
EMPTY = Cell('', math.nan)


def table_cells(
    rows: Sequence[Row], baseline: str, metric: str, columns: Sequence[str] = ()
) -> tuple[list[str], list[list[Cell]]]:
    """Return the heads of a setting's table, and a list of cells for each arm."""
    computed = any(row.cpu_seconds is not None for row in rows)
    timed = any(row.step_seconds is not None for row in rows)
    heads = ['arm', '', 'n', f'test {metric}', f'Δ to {baseline}', *columns]
    heads += ['chosen by validation', 's a run', *['CPU s a run'] * computed, *['s a step'] * timed]
    body = []
    for row in rows:
        cells = [
            Cell(row.arm),
            Cell(row.about),
            Cell(str(len(row.scores)), len(row.scores)),
            _mean_and_spread(list(row.scores.values())),
            _difference(row, row.arm == baseline),
            *(_mean_and_spread(row.columns.get(name, [])) for name in columns),
            Cell(row.candidate),
            number_cell(row.seconds),
        ]
        cells += [number_cell(row.cpu_seconds)] * computed
        cells += [number_cell(row.step_seconds, 3)] * timed
        body.append(cells)
    return heads, body


def number_cell(value: float | None, decimals: int = 0) -> Cell:
    """Return a cell with a rounded number; an empty one for None.

    Example:
        >>> number_cell(2.345, 1), number_cell(None).text
        (Cell(text='2.3', number=2.345, clear=False), '')
    """
    return EMPTY if value is None else Cell(f'{value:.{decimals}f}', value)


def _mean_and_spread(values: Sequence[float]) -> Cell:
    if not values:
        return EMPTY
    spread = f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
    return Cell(f'{np.mean(values):.2f}{spread}', float(np.mean(values)))


def _difference(row: Row, is_baseline: bool) -> Cell:
    difference = row.difference
    if difference is None:
        return Cell('', 0.0) if is_baseline else EMPTY
    text = f'{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]'
    if difference.n < len(row.scores):
        text += f' (n {difference.n})'
    return Cell(text.replace('-', '−'), difference.mean, difference.clear)
