"""Each subject measured and drawn: a picture, and its numbers beside it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from mmkd_plugin.analysis.activity import activities, draw_activity
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.noise import LEVELS, draw_noise, noise_curve
from mmkd_plugin.analysis.parts import DistilledNetworks
from mmkd_plugin.analysis.relevance import relevances
from mmkd_plugin.analysis.relevance_report import draw_relevance, relevance_numbers, save_maps
from mmkd_plugin.analysis.similarity import draw_similarity, pairs_of_interest, similarity

#: Number of images in the picture of relevance; its numbers are of all images.
DRAWN = 8


class Report(NamedTuple):
    """Lines to print, and the paths of the files that were written."""

    lines: Sequence[str]
    files: Sequence[Path]


def report_similarity(
    networks: DistilledNetworks, images: Images, out: Path, *, depth: int = 2
) -> Report:
    """Write ``cka.png`` and ``cka.json``: all layers, and the pairs that show IE-KD's effect."""
    found = similarity(networks, images.batches, depth)
    picture = _save(draw_similarity(found), out / 'cka.png')
    pairs: list[dict[str, Any]] = [
        {'one': ': '.join(one), 'other': ': '.join(other), **found.of(one, other)}
        for one, other in pairs_of_interest(networks, found)
    ]
    names = [': '.join(name) for name in found.names]
    matrices = dict(layers=names, cka=found.values.tolist(), chance=found.chance.tolist())
    numbers = _write(out / 'cka.json', dict(images=found.images, pairs=pairs, **matrices))
    lines = [
        f'{pair["cka"]:.3f} (unrelated {pair["chance"]:.3f})  {pair["one"]} and {pair["other"]}'
        for pair in pairs
    ]
    return Report(lines, [picture, numbers])


def report_activity(networks: DistilledNetworks, images: Images, out: Path) -> Report:
    """Write ``active.png`` and ``active.json``: active neurons."""
    found = activities(networks, images.batches)
    picture = _save(draw_activity(found, images.count), out / 'active.png')
    maps = list(map(dataclasses.asdict, found))
    numbers = _write(out / 'active.json', dict(images=images.count, maps=maps))
    lines = [
        f'{one.active:6.1%} active, {one.dead_channels:4.0%} of channels dead  '
        f'{one.network}: {one.name}'
        for one in found
    ]
    return Report(lines, [picture, numbers])


def report_relevance(
    networks: DistilledNetworks, images: Images, out: Path, *, rule: str = 'lrp'
) -> Report:
    """Write ``relevance.png``, ``relevance.json`` (sums, shares, cosines) and ``relevance.npz``.

    The picture shows the first images; the ``npz`` holds the maps of all.
    """
    found = relevances(networks, images.batches, rule)
    drawn = images.raw(DRAWN)
    labels = found[0].labels[: len(drawn)].tolist()
    picture = _save(draw_relevance(found, drawn, labels, images.class_name), out / 'relevance.png')
    numbers = relevance_numbers(found, [teacher.name for teacher in networks.teachers])
    written = _write(out / 'relevance.json', dict(images=images.count, rule=rule, **numbers))
    lines = [f'{_share_and_cosines(one)}  {one["name"]}' for one in numbers['networks']]
    return Report(lines, [picture, written, save_maps(found, out / 'relevance.npz')])


def _share_and_cosines(one: Mapping[str, Any]) -> str:
    share = '' if one['share'] is None else f'{one["share"]:4.0%} of the score, '
    cosines = ', '.join(f'{value:.2f} with {name}' for name, value in one['cosines'].items())
    return f'{share}cosine {cosines or "-"}'


def report_noise(
    networks: DistilledNetworks,
    images: Images,
    out: Path,
    *,
    levels: Sequence[float] = LEVELS,
    seeds: int = 5,
) -> Report:
    """Write ``noise.png`` and ``noise.json``: loss and accuracy with noise on all weights."""
    found = [
        one
        for network in networks.all
        for one in noise_curve(network, images.batches, levels, seeds)
    ]
    picture = _save(draw_noise(found, images.count), out / 'noise.png')
    measured = list(map(dataclasses.asdict, found))
    numbers = _write(out / 'noise.json', dict(images=images.count, measured=measured))
    lines = [
        f'{one.network} with noise of {one.level:g}: loss {fmean(one.losses):.3f}, '
        f'accuracy {fmean(one.accuracies):.1f}%'
        for one in found
    ]
    return Report(lines, [picture, numbers])


SUBJECTS: dict[str, Callable[..., Report]] = dict(
    cka=report_similarity, active=report_activity, relevance=report_relevance, noise=report_noise
)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path


def _write(path: Path, numbers: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + '\n')
    return path
