"""Running a study: the teachers, then tuning, then the arms, several trainings at once, each result written as it comes."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.pool import Outcome, Task, run_forked
from experiments.study.lines import append_line, line_key, read_lines
from experiments.study.plan import Arm, Run, Study
from experiments.study.train import mean_metric, measure, preload, prepare, prepared, versions
from mmkd_plugin.engine.stages import work_root


@dataclass
class StudyRunner:
    """Runs what a study's lines do not hold yet.

    Args:
        study: From :func:`~experiments.study.plan.load_study`.
        lines: The file of its results.
        jobs: Trainings at once; each has one thread.
        arms: Only these; all by default.
        seeds: Only these of the study's.
    """

    study: Study
    lines: Path
    jobs: int
    arms: Sequence[str] = ()
    seeds: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name, asked, known in (
            ('--arms', self.arms, tuple(self.study.arms)),
            ('--seeds', self.seeds, self.study.seeds),
        ):
            if unknown := [item for item in asked if item not in known]:
                raise ValueError(f'{name}: expected some of {list(known)}, got {unknown}')
        self._arms = [self.study.arms[name] for name in self.arms or self.study.arms]
        self._folder = work_root() / 'studies' / self.study.name
        self._versions = versions()
        self._failed: list[str] = []

    def tuning(self) -> list[Run]:
        """Every candidate of the arms that have several, or that choose for another."""
        choosing = dict.fromkeys(arm.chosen_by for arm in self._arms if len(arm.candidates) > 1)
        tuned = [self.study.arms[name] for name in choosing]
        return [
            Run(arm.name, name, candidate, seed, 'tune')
            for seed in self.study.tune_seeds
            for arm in tuned
            for name, candidate in arm.candidates.items()
        ]

    def reported(self) -> list[Run]:
        """The runs of the report: seed by seed, so that a study broken off compares all arms on fewer seeds."""
        chosen = [(arm, name) for arm in self._arms if (name := self.choose(arm)) is not None]
        return [
            Run(arm.name, name, arm.candidates[name], seed, 'report')
            for seed in self.seeds or self.study.seeds
            for arm, name in chosen
        ]

    def choose(self, arm: Arm) -> str | None:
        """The candidate with the best validation metric, mean over the tuning seeds; None while some runs are missing."""
        if len(arm.candidates) == 1:
            return next(iter(arm.candidates))
        lines = {line_key(line): line for line in read_lines(self.lines)}
        scores: dict[str, float] = {}
        for name, candidate in self.study.arms[arm.chosen_by].candidates.items():
            keys = [(arm.chosen_by, seed, candidate.sha256) for seed in self.study.tune_seeds]
            if not all(key in lines for key in keys):
                return None
            scores[name] = mean_metric([lines[key] for key in keys], 'val', arm.metric)
        return max(scores, key=scores.__getitem__)

    def missing(self, runs: list[Run]) -> list[Run]:
        """Those whose line is not there, asked of the file each time: another job may be writing."""
        done = {line_key(line) for line in read_lines(self.lines)}
        return [run for run in runs if run.key not in done]

    def counts(self) -> dict[str, tuple[int, int]]:
        """For each phase, how many trainings are missing, and of how many."""
        teachers, tuning = list(self.study.prepare.values()), self.tuning()
        seeds, arms = len(self.seeds or self.study.seeds), len(self._arms)
        settled = self.reported()
        unsettled = (arms - len({run.arm for run in settled})) * seeds
        return {
            'prepare': (sum(not prepared(stage) for stage in teachers), len(teachers)),
            'tune': (len(self.missing(tuning)), len(tuning)),
            'report': (len(self.missing(settled)) + unsettled, arms * seeds),
        }

    def execute(self, console: Console) -> list[str]:
        """Run all that is missing; give a line for each failure."""
        progress = Progress(
            TextColumn(self.study.name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            auto_refresh=False,  # its thread must not be there when runs are forked
            speed_estimate_period=3600,
        )
        bar = progress.add_task('', total=sum(missing for missing, _ in self.counts().values()))
        preload(candidate.cfg for arm in self._arms for candidate in arm.candidates.values())
        with progress:
            phases: list[Callable[[], Iterator[Task]]] = [
                partial(self._prepare_tasks, w) for w in self.study.waves()
            ]
            phases += [self._tune_tasks, self._report_tasks]
            for tasks in phases:
                for outcome in run_forked(tasks(), self.jobs, tick=progress.refresh):
                    progress.advance(bar)
                    progress.console.print(self._told(outcome), highlight=False, soft_wrap=True)
        for arm in self._arms:
            if self.choose(arm) is None:
                self._failed.append(f'{arm.name}: not reported, for its tuning is not complete')
        return self._failed

    def _prepare_tasks(self, names: Sequence[str]) -> Iterator[Task]:
        for name in names:
            stage = self.study.prepare[name]
            if prepared(stage):
                continue
            yield Task(
                f'prepare {name}', self._folder / f'prepare {name}.log', partial(prepare, stage)
            )

    def _tune_tasks(self) -> Iterator[Task]:
        yield from self._tasks(self.tuning())

    def _report_tasks(self) -> Iterator[Task]:
        yield from self._tasks(self.reported())

    def _tasks(self, runs: list[Run]) -> Iterator[Task]:
        for run in runs:
            if self.missing([run]):
                folder = self._folder / run.arm / run.name.replace('/', '_') / f'seed_{run.seed}'
                name = ' '.join(
                    part for part in (run.role, run.arm, run.name, f'seed {run.seed}') if part
                )
                yield Task(name, folder / 'run.log', partial(measure, run, folder))

    def _told(self, outcome: Outcome) -> str:
        """Write what came of a task, and say it."""
        name, line = outcome.task.name, outcome.result
        if outcome.failure:
            self._failed.append(f'{name}: {outcome.failure} ({outcome.task.log})')
            return f'FAILED {self._failed[-1]}'
        if line is None:
            return f'{name}: ready, {outcome.seconds:.0f} s'
        append_line(
            self.lines,
            {'study': self.study.name, **line, 'jobs': self.jobs, 'versions': self._versions},
        )
        metric = self.study.arms[line['arm']].metric
        splits = [split for split in ('val', 'test') if metric in line.get(split, {})]
        scale = self.study.scale
        found = '  '.join(f'{split} {scale * line[split][metric]:.2f}' for split in splits)
        return f'{name}: {found}  {outcome.seconds:.0f} s'


def default_jobs() -> int:
    """One training a core that this process may use."""
    return len(os.sched_getaffinity(0))
