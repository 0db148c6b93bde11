"""Relevance beside the images."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from mmkd_plugin.analysis.relevance import Relevance


def draw_relevance(
    found: Sequence[Relevance],
    images: Sequence[Tensor],
    labels: Sequence[int],
    names: Callable[[int], str],
) -> Figure:
    """A row an image, a column a network or part: red speaks for the image's class, blue against it.

    In each row a network has a scale of its own, which its parts share: their maps add up to its own.

    Args:
        found: Of all networks.
        images: Those to draw, the first ones: (C, H, W) each, of any range.
        labels: The class of each.
        names: The name of a class.
    """
    rows, columns = len(images), 1 + len(found)
    figure = Figure(figsize=(1.5 * columns, 1.72 * rows + 0.4), dpi=130, layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False)
    by_name = {one.name: one for one in found}
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        panels[row][0].imshow(_shown(image), cmap='gray')
        panels[row][0].set_xlabel(f'class {names(label)}', fontsize=8)
        for axes, one in zip(panels[row][1:], found, strict=True):
            top = float((by_name[one.whole] if one.whole else one).maps[row].abs().max()) or 1.0
            axes.imshow(one.maps[row], cmap='seismic', vmin=-top, vmax=top)
            axes.set_xlabel(_told(one, row, names, label), fontsize=8)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, title in zip(panels[0], ['image', *(one.name for one in found)], strict=True):
        axes.set_title(title, fontsize=9)
    return figure


def _told(one: Relevance, row: int, names: Callable[[int], str], label: int) -> str:
    if one.whole:
        return f'adds {one.sums[row]:+.1f}'
    said = int(one.predictions[row])
    return f'score {one.scores[row]:.1f}' + ('' if said == label else f', says {names(said)}')


def _shown(image: Tensor) -> Tensor:
    """Colours from 0 to 1, last; BGR, in which OpenMMLab reads files, becomes RGB."""
    image = image.float()
    low, high = image.amin(), image.amax()
    image = (image - low) / (high - low).clamp_min(1e-12)
    return image.flip(0).permute(1, 2, 0) if len(image) == 3 else image.mean(dim=0)
