"""Compute a study's numbers from its lines: means, spreads, and differences to the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from experiments.study.lines import Line
from experiments.study.plan import Study


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of arm minus baseline, with its 95% interval by Student's t."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Row:
    """One arm in one table.

    Args:
        arm: Its name, without the setting.
        about: Its description.
        candidate: Name of the candidate that validation chose.
        scores: Test metrics by seed.
        seconds: Median of a run.
        cpu_seconds: The same of its CPU time; None if the lines have none.
        step_seconds: Median of a training iteration; None if the lines have none.
        difference: Paired difference to the baseline; None for the baseline itself.
        columns: The study's further metrics that the lines have, by heading.
    """

    arm: str
    about: str
    candidate: str
    scores: Mapping[int, float]
    seconds: float
    cpu_seconds: float | None
    step_seconds: float | None
    difference: Difference | None
    columns: Mapping[str, list[float]]

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(list(self.scores.values())))


def tables(study: Study, lines: Sequence[Line]) -> dict[str, list[Row]]:
    """Return a table for each setting, the part of an arm's name before the slash.

    An arm without a setting stands in all tables. A baseline may name a table without own arms.
    Only runs of one config count for an arm: the config of its newest reported line. Arms without
    lines are left out; :func:`arms_without_lines` returns them.
    """
    settings = dict.fromkeys(name.rpartition('/')[0] for name in study.arms)
    if isinstance(study.baseline, Mapping):
        settings |= dict.fromkeys(study.baseline)
    if len(settings) > 1:
        settings.pop('', None)
    runs = {name: reported_lines(name, lines) for name in study.arms}
    result = {setting: _table(study, setting, runs) for setting in settings}
    return {setting: rows for setting, rows in result.items() if rows}


def arms_without_lines(study: Study, lines: Sequence[Line]) -> list[str]:
    """Return the arms that no line reports."""
    return [name for name in study.arms if not reported_lines(name, lines)]


def arms_of(study: Study, setting: str) -> list[str]:
    """Return the arms of a table: those of the setting, and those without one."""
    return [name for name in study.arms if name.rpartition('/')[0] in ('', setting)]


def reported_lines(arm: str, lines: Sequence[Line]) -> list[Line]:
    """Return the lines that count for an arm: of its newest reported config, one for each seed."""
    own = [line for line in lines if line['arm'] == arm and line['role'] == 'report']
    newest = own[-1]['config_sha256'] if own else None
    return list({line['seed']: line for line in own if line['config_sha256'] == newest}.values())


def _table(study: Study, setting: str, runs: Mapping[str, list[Line]]) -> list[Row]:
    names = arms_of(study, setting)
    baseline = next(
        (name for name in names if name.rpartition('/')[2] == study.baseline_of(setting)), None
    )
    scores = {
        name: {
            line['seed']: study.scale * line['test'][study.arms[name].metric] for line in runs[name]
        }
        for name in names
    }
    return [
        Row(
            arm=name.rpartition('/')[2],
            about=study.arms[name].about,
            candidate=runs[name][-1]['candidate'],
            scores=scores[name],
            seconds=float(np.median([line['seconds'] for line in runs[name]])),
            cpu_seconds=_median(runs[name], 'cpu_seconds'),
            step_seconds=_median(runs[name], 'step_seconds'),
            difference=None
            if baseline in (None, name)
            else paired_difference(scores[name], scores[baseline]),
            columns={
                head: [study.scale * line['test'][metric] for line in runs[name]]
                for head, metric in study.columns.items()
                if all(metric in line['test'] for line in runs[name])
            },
        )
        for name in names
        if runs[name]
    ]


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return arm minus baseline over the seeds that both have; None for fewer than two.

    Example:
        >>> paired_difference({0: 3.0, 1: 4.0}, {0: 1.0, 1: 2.0})
        Difference(mean=2.0, low=2.0, high=2.0, n=2)
    """
    seeds = sorted(arm.keys() & baseline.keys())
    if len(seeds) < 2:
        return None
    a, b = [arm[seed] for seed in seeds], [baseline[seed] for seed in seeds]
    differences = np.subtract(a, b)
    mean = float(differences.mean())
    if np.ptp(differences) == 0:  # t is undefined without spread
        return Difference(mean, mean, mean, len(seeds))
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), len(seeds))


def _median(lines: Sequence[Line], key: str) -> float | None:
    if any(key not in line for line in lines):
        return None
    return float(np.median([line[key] for line in lines]))
