"""Loss and accuracy against noise."""

from collections.abc import Sequence
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from mmkd_plugin.analysis.noise import Disturbed


def draw_noise(found: Sequence[Disturbed], images: int) -> Figure:
    """A line a network: the mean over draws, and all of them from the least to the greatest."""
    figure = Figure(figsize=(10, 4), dpi=130, layout='constrained')
    loss, accuracy = figure.subplots(1, 2)
    networks = list(dict.fromkeys(one.network for one in found))
    for number, network in enumerate(networks):
        curve = [one for one in found if one.network == network]
        levels = [one.level for one in curve]
        for axes, values in (
            (loss, [one.losses for one in curve]),
            (accuracy, [one.accuracies for one in curve]),
        ):
            axes.plot(
                levels,
                list(map(fmean, values)),
                'o-',
                markersize=4,
                color=f'C{number}',
                label=network,
            )
            least, most = list(map(min, values)), list(map(max, values))
            axes.fill_between(levels, least, most, color=f'C{number}', alpha=0.15, linewidth=0)
    loss.set_ylabel('cross-entropy')
    loss.set_yscale('log')
    loss.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    loss.yaxis.set_major_formatter(ScalarFormatter())
    loss.yaxis.set_minor_locator(NullLocator())
    accuracy.set_ylabel('accuracy in %')
    accuracy.set_ylim(0.0, 100.0)
    seeds = max(len(one.losses) for one in found)
    for axes in (loss, accuracy):
        axes.set_xlabel('noise, relative to the weights')
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    loss.legend()
    figure.suptitle(
        f'weights disturbed: mean and range of {seeds} draws, {images} images', fontsize=10
    )
    return figure
