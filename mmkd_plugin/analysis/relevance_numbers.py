"""Relevance maps in numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import functional as F

from mmkd_plugin.analysis.relevance import Relevance


def relevance_numbers(found: Sequence[Relevance], teachers: Sequence[str]) -> dict[str, Any]:
    """Of every network and part, over all images: mean score, mean sum of pixels, share of the whole, cosines.

    ``share`` of a part is the sum of its pixels over that of the whole, both over all images; it may be below 0 or above 1 where
    the parts speak against each other. ``cosines`` are those of its maps with the maps of each teacher and, of parts, with the
    other parts': 1 where both look at the same pixels in the same way. The mean over images; left out where maps differ in size.
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
    """Write all maps, (N, H, W) each under its name."""
    arrays: dict[str, Any] = {one.name: one.maps.numpy() for one in found}
    np.savez_compressed(path, **arrays)
    return path
