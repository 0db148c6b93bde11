"""Read what MMEngine recorded in runs, and average it over seeds: mean, minimum and maximum."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]
Points = dict[float, float]
#: Positions and times; everything else in a record is a quantity.
NOT_QUANTITIES = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')


@dataclass(frozen=True)
class History:
    """The recorded quantities of one run, by name: the values by position.

    Args:
        training: By iteration.
        validation: By ``unit``.
        unit: ``'epoch'`` or ``'iteration'``.
    """

    training: Mapping[str, Points]
    validation: Mapping[str, Points]
    unit: str


@dataclass(frozen=True)
class Curve:
    """Mean, minimum and maximum of ``n`` runs at the positions ``x``."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    n: int


def read_records(path: Path) -> list[Record]:
    """Return the records of a ``scalars.json``, which has one on each line.

    A last line that was cut, as by a full disk, is left out.
    """
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind('\n') + 1].splitlines()]


def history(records: Sequence[Record]) -> History:
    """Return the quantities of a run.

    MMEngine gives records of training an ``iter``, and with an epoch-based log an ``epoch``. Those
    of validation have a ``step`` alone: the epoch, or the iteration, or in iteration-based training
    with MMEngine's defaults often 0. The last iteration before replaces the 0.

    Example:
        >>> found = history([{'loss': 2.0, 'iter': 50, 'step': 50}, {'accuracy': 0.5, 'step': 0}])
        >>> found.training, found.validation, found.unit
        ({'loss': {50: 2.0}}, {'accuracy': {50: 0.5}}, 'iteration')
    """
    epochs = max((record.get('epoch', 0) for record in records), default=0)
    steps = [record['step'] for record in records if 'iter' not in record]
    by_epoch = epochs > 0 and max(steps, default=0) <= epochs
    training: dict[str, Points] = {}
    validation: dict[str, Points] = {}
    iteration = 0
    for record in records:
        if 'iter' in record:
            iteration = position = record['iter']
            quantities = training
        else:
            position = record['step'] if by_epoch else max(record['step'], iteration)
            quantities = validation
        for name, value in record.items():
            if name not in NOT_QUANTITIES and isinstance(value, int | float):
                quantities.setdefault(name, {})[position] = value
    return History(training, validation, 'epoch' if by_epoch else 'iteration')


def band(runs: Sequence[Mapping[float, float]], scale: float = 1.0) -> Curve:
    """Return mean, minimum and maximum over runs, at the positions that every run has.

    Example:
        >>> band([{1: 2.0, 2: 3.0}, {1: 4.0, 2: 3.0}], scale=100)
        Curve(x=[1, 2], mean=[300.0, 300.0], low=[200.0, 300.0], high=[400.0, 300.0], n=2)
    """
    x = sorted(set.intersection(*(set(run) for run in runs)))
    values = scale * np.array([[run[position] for position in x] for run in runs])
    low, high = values.min(axis=0), values.max(axis=0)
    return Curve(x, values.mean(axis=0).tolist(), low.tolist(), high.tolist(), len(runs))


def bands(
    runs: Mapping[str, Sequence[Mapping[str, Points]]], scale: float = 1.0
) -> dict[str, dict[str, Curve]]:
    """Return a curve for each quantity and arm.

    Quantities with fewer than two positions in every arm are left out: they are no curves.

    Args:
        runs: For each arm the quantities of its runs.
        scale: Factor for all values.
    """
    names = dict.fromkeys(name for each in runs.values() for run in each for name in run)
    found = {
        name: {
            arm: band(having, scale)
            for arm, each in runs.items()
            if (having := [run[name] for run in each if name in run])
        }
        for name in names
    }
    return {
        name: curves
        for name, curves in found.items()
        if any(len(curve.x) > 1 for curve in curves.values())
    }
