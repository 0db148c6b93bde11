import math

from experiments.study.curves import Curve
from experiments.study.figures import curve_figure

LOSS = Curve([1, 2, 3], [1.0, math.nan, 3.0], [0.5, math.nan, 2.0], [1.5, math.nan, 4.0], 3)
ONCE = Curve([1, 2, 3], [7.0] * 3, [7.0] * 3, [7.0] * 3, 1)


def test_curve_figure_band_goes_there_by_the_maximum_and_back_by_the_minimum() -> None:
    figure = curve_figure({'loss': {'new': LOSS}}, ['mean', 'new'], 'mean', 'iteration')
    band, line = figure.data
    assert (band.fill, band.x, band.y) == ('toself', (1, 3, 3, 1), (1.5, 4.0, 2.0, 0.5))
    assert line.x == (1, 2, 3) and math.isnan(line.y[1])
    assert line.name == 'new (n 3)'
    assert not figure.layout.updatemenus


def test_curve_figure_menu_shows_one_quantity_with_the_colors_of_the_arms() -> None:
    quantities = {'loss': {'new': LOSS, 'mean': ONCE}, 'loss_kd': {'new': ONCE}}
    figure = curve_figure(quantities, ['mean', 'new'], 'mean', 'iteration')
    assert [trace.visible for trace in figure.data] == [True] * 4 + [False] * 2
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ['loss', 'loss_kd']
    chosen, axis = menu.buttons[1].args
    assert chosen == {'visible': [False] * 4 + [True] * 2}
    assert axis == {'yaxis.title.text': 'loss_kd'}
    colors = [trace.line.color for trace in figure.data[1::2]]
    assert colors[1] == 'black' and colors[0] == colors[2] != 'black'
