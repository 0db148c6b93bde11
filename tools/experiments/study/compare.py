"""From the lines of a study to its numbers: mean and spread of each arm, and paired differences to the baseline."""

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
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Row:
    """One arm in one table. ``scores`` are test metrics by seed, ``columns`` the study's further ones that its lines have.

    ``seconds`` are the median of a run, ``step_seconds`` that of an iteration of training; lines of old have none.
    """

    arm: str
    about: str
    candidate: str
    scores: Mapping[int, float]
    seconds: float
    step_seconds: float | None
    difference: Difference | None
    columns: Mapping[str, list[float]]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))


def tables(study: Study, lines: Sequence[Line]) -> dict[str, list[Row]]:
    """A table for each setting, the part of an arm's name before its slash; an arm without one stands in all of them.

    Of an arm only the runs of one config count: that of its newest line for the report. What has no line is left out.
    """
    settings = dict.fromkeys(name.rpartition('/')[0] for name in study.arms)
    if len(settings) > 1:
        settings.pop('', None)
    runs = {name: _reported(name, lines) for name in study.arms}
    result = {}
    for setting in settings:
        names = [name for name in study.arms if name.rpartition('/')[0] in ('', setting)]
        baseline = next(
            (name for name in names if name.rpartition('/')[2] == study.baseline_of(setting)), None
        )
        scores = {
            name: {
                line['seed']: study.scale * line['test'][study.arms[name].metric]
                for line in runs[name]
            }
            for name in names
        }
        result[setting] = [
            Row(
                arm=name.rpartition('/')[2],
                about=study.arms[name].about,
                candidate=runs[name][-1]['candidate'],
                scores=scores[name],
                seconds=float(np.median([line['seconds'] for line in runs[name]])),
                step_seconds=_step_seconds(runs[name]),
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
    return {setting: rows for setting, rows in result.items() if rows}


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Arm minus baseline over the seeds that both have; None for fewer than two."""
    seeds = sorted(arm.keys() & baseline.keys())
    if len(seeds) < 2:
        return None
    a, b = [arm[seed] for seed in seeds], [baseline[seed] for seed in seeds]
    differences = np.subtract(a, b)
    mean = float(differences.mean())
    if np.ptp(differences) == 0:  # no spread, no t
        return Difference(mean, mean, mean, len(seeds))
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), len(seeds))


def _reported(arm: str, lines: Sequence[Line]) -> list[Line]:
    own = [line for line in lines if line['arm'] == arm and line['role'] == 'report']
    newest = own[-1]['config_sha256'] if own else None
    return list({line['seed']: line for line in own if line['config_sha256'] == newest}.values())


def _step_seconds(lines: Sequence[Line]) -> float | None:
    if any('step_seconds' not in line for line in lines):
        return None
    return float(np.median([line['step_seconds'] for line in lines]))
