"""Figures of the HTML page, drawn by Plotly in the browser: intervals, and curves with bands."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from plotly import graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from experiments.study.compare import Row
from experiments.study.curves import Curve

NEARLY_BLACK = '#222A2A'  # black is the baseline
COLORS = [color for color in qualitative.Dark24 if color != NEARLY_BLACK]
BASELINE, CLEAR, UNCLEAR, POINT = 'black', '#1f77b4', '#7f7f7f', '#bbbbbb'

CONFIG = {
    'displaylogo': False,
    'responsive': True,
    'showSendToCloud': False,  # a button that uploads the figure
    'modeBarButtonsToRemove': ['select2d', 'lasso2d', 'zoomIn2d', 'zoomOut2d', 'autoScale2d'],
}


def interval_figure(rows: Sequence[Row], baseline: str, metric: str) -> go.Figure:
    """Return scores on the left, a point a seed; on the right differences with intervals."""
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.03)
    seeds = [(row.arm, seed, score) for row in rows for seed, score in row.scores.items()]
    figure.add_scatter(
        x=[score for _, _, score in seeds],
        y=[arm for arm, _, _ in seeds],
        text=[f'seed {seed}' for _, seed, _ in seeds],
        mode='markers',
        marker={'color': POINT},
        name='',
        hovertemplate='%{y}, %{text}: %{x:.2f}',
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=[row.mean for row in rows],
        y=[row.arm for row in rows],
        mode='markers',
        marker={
            'color': BASELINE,
            'size': 9,
            'symbol': ['diamond' if row.arm == baseline else 'circle' for row in rows],
        },
        name='',
        hovertemplate='%{y}, mean: %{x:.2f}',
        row=1,
        col=1,
    )
    for clear, color in ((True, CLEAR), (False, UNCLEAR)):
        found = [
            (row.arm, row.difference)
            for row in rows
            if row.difference and row.difference.clear == clear
        ]
        figure.add_scatter(
            x=[difference.mean for _, difference in found],
            y=[arm for arm, _ in found],
            customdata=[[difference.low, difference.high, difference.n] for _, difference in found],
            error_x={
                'array': [difference.high - difference.mean for _, difference in found],
                'arrayminus': [difference.mean - difference.low for _, difference in found],
                'width': 0,
            },
            mode='markers',
            marker={'color': color, 'size': 9},
            name='',
            hovertemplate='%{y}: %{x:+.2f} [%{customdata[0]:+.2f}, %{customdata[1]:+.2f}],'
            ' n %{customdata[2]}',
            row=1,
            col=2,
        )
    figure.add_vline(x=0, line_width=1, row=1, col=2)
    figure.update_xaxes(title_text=f'test {metric}: seeds, and their mean', row=1, col=1)
    figure.update_xaxes(title_text=f'minus {baseline}: mean and 95% interval', row=1, col=2)
    names = [row.arm for row in rows]
    figure.update_yaxes(categoryorder='array', categoryarray=names, range=[len(rows) - 0.5, -0.5])
    figure.update_yaxes(automargin=True, row=1, col=1)
    return _plain(figure, 110 + 26 * len(rows), showlegend=False)


def curve_figure(
    quantities: Mapping[str, Mapping[str, Curve]], arms: Sequence[str], baseline: str, unit: str
) -> go.Figure:
    """Return a line for each arm with its band; a menu chooses among several quantities.

    Args:
        quantities: The curves by quantity and arm. The first is shown first.
        arms: All arms of the table, so that an arm has one color in every figure.
        baseline: The arm that is drawn in black.
        unit: Title of the horizontal axis.
    """
    figure = go.Figure()
    others = [arm for arm in arms if arm != baseline]
    colors = {arm: COLORS[number % len(COLORS)] for number, arm in enumerate(others)}
    colors[baseline] = BASELINE
    shown: list[str] = []  # the quantity of each trace
    first = next(iter(quantities))
    for quantity, curves in quantities.items():
        for arm, curve in curves.items():
            for trace in _traces(arm, curve, colors[arm]):
                figure.add_trace(trace.update(visible=quantity == first))
                shown.append(quantity)
    buttons = [
        {
            'label': quantity,
            'method': 'update',
            'args': [
                {'visible': [each == quantity for each in shown]},
                {'yaxis.title.text': quantity},
            ],
        }
        for quantity in quantities
    ]
    if len(buttons) > 1:
        menu = {'x': 0, 'xanchor': 'left', 'y': 1.02, 'yanchor': 'bottom', 'direction': 'down'}
        figure.update_layout(updatemenus=[{'buttons': buttons, 'showactive': True, **menu}])
    figure.update_xaxes(title_text=unit, rangemode='tozero')
    figure.update_yaxes(title_text=first)
    return _plain(figure, max(420, 110 + 29 * len(arms)), showlegend=True)


def figure_html(figure: go.Figure, name: str) -> str:
    """Return a figure as HTML, for a page that has Plotly's script."""
    return figure.to_html(CONFIG, full_html=False, include_plotlyjs=False, div_id=name)


def _traces(arm: str, curve: Curve, color: str) -> list[Any]:
    """Return the band and the line; values that are not finite leave gaps."""
    x, low, high = _finite(curve)
    label = f'{arm} (n {curve.n})'
    return [
        go.Scatter(
            x=x + x[::-1],
            y=high + low[::-1],
            fill='toself',
            fillcolor=color,
            opacity=0.15,
            line_width=0,
            mode='lines',
            hoverinfo='skip',
            legendgroup=arm,
            showlegend=False,
            name=label,
        ),
        go.Scatter(
            x=curve.x,
            y=curve.mean,
            customdata=list(zip(curve.low, curve.high, strict=True)),
            mode='lines+markers',
            marker_size=4,
            line={'color': color, 'width': 2},
            legendgroup=arm,
            name=label,
            hovertemplate='%{x}: %{y:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]',
        ),
    ]


def _finite(curve: Curve) -> tuple[list[float], list[float], list[float]]:
    found = [
        each
        for each in zip(curve.x, curve.low, curve.high, strict=True)
        if all(map(math.isfinite, each))
    ]
    return [x for x, _, _ in found], [low for _, low, _ in found], [high for _, _, high in found]


def _plain(figure: go.Figure, height: int, showlegend: bool) -> go.Figure:
    return figure.update_layout(
        template='plotly_white',
        height=height,
        margin={'l': 60, 'r': 20, 't': 50, 'b': 50},
        showlegend=showlegend,
        hovermode='closest',
    )
