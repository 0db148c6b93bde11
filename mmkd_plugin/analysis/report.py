"""Each subject measured and drawn: a picture, and its numbers beside it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from mmkd_plugin.analysis.activity import activities
from mmkd_plugin.analysis.activity_picture import draw_activity
from mmkd_plugin.analysis.images import Images
from mmkd_plugin.analysis.networks import Networks
from mmkd_plugin.analysis.noise import LEVELS, noise_curve
from mmkd_plugin.analysis.noise_picture import draw_noise
from mmkd_plugin.analysis.relevance import relevances
from mmkd_plugin.analysis.relevance_numbers import relevance_numbers, save_maps
from mmkd_plugin.analysis.relevance_picture import draw_relevance
from mmkd_plugin.analysis.similarity import pairs_of_interest, similarity
from mmkd_plugin.analysis.similarity_picture import draw_similarity

#: Images that the picture of relevance shows; its numbers are of all.
DRAWN = 8


class Report(NamedTuple):
    """What to tell, and the files that were written."""

    lines: Sequence[str]
    files: Sequence[Path]


def report_similarity(networks: Networks, images: Images, out: Path, *, depth: int = 2) -> Report:
    """``cka.png`` and ``cka.json``: every layer with every other, and the pairs that IE-KD is about."""
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


def report_activity(networks: Networks, images: Images, out: Path) -> Report:
    """``active.png`` and ``active.json``: active neurons."""
    found = activities(networks, images.batches)
    picture = _save(draw_activity(found, images.count), out / 'active.png')
    numbers = _write(
        out / 'active.json', dict(images=images.count, maps=list(map(dataclasses.asdict, found)))
    )
    lines = [
        f'{one.active:6.1%} active, {one.dead_channels:4.0%} of channels dead  {one.network}: {one.name}'
        for one in found
    ]
    return Report(lines, [picture, numbers])


def report_relevance(networks: Networks, images: Images, out: Path, *, rule: str = 'lrp') -> Report:
    """``relevance.png`` (the first images), ``relevance.json`` (sums, shares, cosines) and ``relevance.npz`` (the maps)."""
    found = relevances(networks, images.batches, rule)
    drawn = images.raw(DRAWN)
    labels = found[0].labels[: len(drawn)].tolist()
    picture = _save(draw_relevance(found, drawn, labels, images.class_name), out / 'relevance.png')
    numbers = relevance_numbers(found, [teacher.name for teacher in networks.teachers])
    written = _write(out / 'relevance.json', dict(images=images.count, rule=rule, **numbers))
    lines = [f'{_told(one)}  {one["name"]}' for one in numbers['networks']]
    return Report(lines, [picture, written, save_maps(found, out / 'relevance.npz')])


def _told(one: Mapping[str, Any]) -> str:
    share = '' if one['share'] is None else f'{one["share"]:4.0%} of the score, '
    cosines = ', '.join(f'{value:.2f} with {name}' for name, value in one['cosines'].items())
    return f'{share}cosine {cosines or "-"}'


def report_noise(
    networks: Networks,
    images: Images,
    out: Path,
    *,
    levels: Sequence[float] = LEVELS,
    seeds: int = 5,
) -> Report:
    """``noise.png`` and ``noise.json``: loss and accuracy with noise on all weights."""
    found = [
        one
        for network in networks.all
        for one in noise_curve(network, images.batches, levels, seeds)
    ]
    picture = _save(draw_noise(found, images.count), out / 'noise.png')
    numbers = _write(
        out / 'noise.json', dict(images=images.count, measured=list(map(dataclasses.asdict, found)))
    )
    lines = [
        f'{one.network} with noise of {one.level:g}: loss {fmean(one.losses):.3f}, accuracy {fmean(one.accuracies):.1f}%'
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
