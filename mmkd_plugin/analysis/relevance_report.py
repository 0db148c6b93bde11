"""Relevance maps in numbers, in a file, and beside the images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.analysis.relevance import Relevance

#: Characters in a line of a title that fit over one panel.
LINE = 20


def relevance_numbers(found: Sequence[Relevance], teachers: Sequence[str]) -> dict[str, Any]:
    """Summarise relevance maps of networks and parts over all images.

    Args:
        found: Relevance of all networks and parts.
        teachers: Names of the teachers among them.

    Returns:
        ``networks``, a dict for each network and part, and ``sums``, a dict for each image. The
        former have the mean ``score``, the mean ``sum`` of the pixels, the ``accuracy`` in percent,
        ``share`` and ``cosines``.

        ``share`` of a part is the sum of its pixels over that of the whole, both over all images.
        It may be below 0 or above 1 if the parts have opposite signs.

        ``cosines`` compare the maps with those of each teacher, and for parts with the other
        parts'. They are means over images: 1 for equal maps up to a factor. They are left out if
        maps differ in size.
    """
    by_name = {one.name: one for one in found}
    networks = []
    for one in found:
        compared = [
            *(by_name[name] for name in teachers),
            *(other for other in found if one.whole and other.whole),
        ]
        cosines = {
            other.name: float(
                F.cosine_similarity(one.maps.flatten(1), other.maps.flatten(1)).mean()
            )
            for other in compared
            if other is not one and other.maps.shape == one.maps.shape
        }
        networks.append(
            dict(
                name=one.name,
                accuracy=float((one.predictions == one.labels).float().mean() * 100),
                score=float(one.scores.mean()),
                sum=float(one.sums.mean()),
                share=float(one.sums.sum() / by_name[one.whole].sums.sum()) if one.whole else None,
                cosines=cosines,
            )
        )
    images = [
        dict(label=int(label), **{one.name: float(one.sums[row]) for one in found})
        for row, label in enumerate(found[0].labels)
    ]
    return dict(networks=networks, sums=images)


def save_maps(found: Sequence[Relevance], path: Path) -> Path:
    """Write all maps, (N, H, W) each under its name, and return the path."""
    arrays: dict[str, Any] = {one.name: one.maps.numpy() for one in found}
    np.savez_compressed(path, **arrays)
    return path


def draw_relevance(
    found: Sequence[Relevance],
    images: Sequence[Tensor],
    labels: Sequence[int],
    names: Callable[[int], str],
) -> Figure:
    """Draw a row for each image and a column for each network or part.

    Red pixels add to the score of the image's class, blue ones reduce it. In each row a network has
    its own scale, which its parts share: their maps sum to its own.

    Args:
        found: Relevance of all networks and parts.
        images: The first images, (C, H, W) each, of any range.
        labels: The class of each of them.
        names: Maps a class index to the name of the class.
    """
    rows, columns = len(images), 1 + len(found)
    figure = Figure(figsize=(1.5 * columns, 1.72 * rows + 0.4), dpi=130, layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False)
    by_name = {one.name: one for one in found}
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        panels[row][0].imshow(_as_rgb(image), cmap='gray')
        panels[row][0].set_xlabel(f'class {names(label)}', fontsize=8)
        for axes, one in zip(panels[row][1:], found, strict=True):
            top = float((by_name[one.whole] if one.whole else one).maps[row].abs().max()) or 1.0
            axes.imshow(one.maps[row], cmap='seismic', vmin=-top, vmax=top)
            axes.set_xlabel(_caption(one, row, names, label), fontsize=8)
    for axes in panels.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, title in zip(panels[0], ['image', *(one.name for one in found)], strict=True):
        axes.set_title('\n'.join(wrap(title, LINE)), fontsize=9)
    return figure


def _caption(one: Relevance, row: int, names: Callable[[int], str], label: int) -> str:
    if one.whole:
        return f'adds {one.sums[row]:+.1f}'
    predicted = int(one.predictions[row])
    wrong = '' if predicted == label else f', predicts {names(predicted)}'
    return f'score {one.scores[row]:.1f}{wrong}'


def _as_rgb(image: Tensor) -> Tensor:
    """Scale colours to 0 to 1, and turn OpenMMLab's BGR into RGB in the last dimension."""
    image = image.float()
    low, high = image.amin(), image.amax()
    image = (image - low) / (high - low).clamp_min(1e-12)
    return image.flip(0).permute(1, 2, 0) if len(image) == 3 else image.mean(dim=0)
