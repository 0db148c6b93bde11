"""Checks of a store's rows against the requests of a run, and against the network."""

from collections.abc import Collection, Sequence

import torch
from mmengine.logging import print_log

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.replay.logits import Bytes
from mmkd_plugin.replay.rows import RowFormat

#: Outputs that differ by more, relative to the largest, are not those of the same teacher.
_TOLERANCE = 0.05


def require_holds(
    row: RowFormat, path: str, features: Sequence[str], scores: bool, boxes: bool = False
) -> None:
    """Refuse requests for outputs that the rows of a store do not have.

    Args:
        row: Format of the rows.
        path: Path of the store.
        features: The requested features.
        scores: Whether class scores are requested.
        boxes: Whether boxes are requested.

    Raises:
        ConfigError: With the first that is missing, and what is there.
    """
    missing = [name for name in features if name not in row.features]
    if scores and row.scores is None:
        missing.append('class scores')
    if boxes and row.boxes is None:
        missing.append('boxes')
    if missing:
        held = [*row.features, *(['class scores'] if row.scores else [])]
        held += ['boxes'] if row.boxes else []
        raise ConfigError(
            'path',
            f'is a store without {missing[0]}; it holds {", ".join(held)}',
            'Request these, or give another path.',
            found=path,
        )


def require_computable(row: RowFormat, path: str, features: Collection[str]) -> None:
    """Refuse a store with missing rows that have other features than the run computes.

    Args:
        row: Format of the rows.
        path: Path of the store.
        features: The features that the run computes.

    Raises:
        ConfigError: With the name of a feature.
    """
    unknown = sorted(row.features.keys() - features)
    if unknown:
        raise ConfigError(
            'path',
            f'has missing rows, and this run does not compute {unknown[0]!r}, which they hold',
            'Fill the store with the config that made it, or give another path.',
            found=path,
        )


def compare_rows(row: RowFormat, name: str, path: str, stored: Bytes, own: Bytes) -> None:
    """Log how much stored rows differ from what the network outputs now.

    Args:
        row: Format of the rows.
        name: Name of the teacher.
        path: Path of the store.
        stored: Rows of the store, (N, bytes).
        own: Rows of the network for the same images, (N, bytes).

    Raises:
        ConfigError: If they differ by more than 5% of the largest value.
    """
    values = [_values(row.unpack(one)[0]) for one in (stored, own)]
    largest = float((values[0] - values[1]).abs().max() / values[1].abs().max().clamp_min(1e-12))
    print_log(
        f'Teacher {name}: {len(stored)} stored rows differ from its outputs by at most '
        f'{largest:.2g} of the largest',
        logger='current',
    )
    if largest > _TOLERANCE:
        raise ConfigError(
            'path',
            f'holds other outputs than those of the teacher: they differ by {largest:.2g} of '
            'the largest',
            'Delete the store; it is filled again.',
            found=path,
        )


def _values(output: NetworkOutput) -> torch.Tensor:
    parts = [value.flatten() for value in output.features.values()]
    if output.scores is not None:
        parts.append(output.scores.logits.flatten())
    return torch.cat(parts)
