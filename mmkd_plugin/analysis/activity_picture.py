"""Active neurons as bars."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mmkd_plugin.analysis.activity import Activity


def draw_activity(found: Sequence[Activity], images: int) -> Figure:
    """A bar a map, a colour a network, with the spread over images; the part of dead channels behind the name."""
    figure = Figure(figsize=(8, 1.3 + 0.35 * len(found)), dpi=130, layout='constrained')
    axes = figure.add_subplot()
    places = range(len(found))
    networks = list(dict.fromkeys(one.network for one in found))
    axes.barh(
        places,
        [100 * one.active for one in found],
        xerr=[100 * one.spread for one in found],
        color=[f'C{networks.index(one.network)}' for one in found],
        ecolor='0.3',
        capsize=3,
        height=0.65,
    )
    dead = [
        f', {one.dead_channels:.0%} of channels dead' if one.dead_channels else '' for one in found
    ]
    axes.set_yticks(
        places, [f'{one.network}: {one.name}{told}' for one, told in zip(found, dead, strict=True)]
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.grid(axis='x', alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_xlabel(f'active neurons in %: mean and standard deviation over {images} images')
    return figure
