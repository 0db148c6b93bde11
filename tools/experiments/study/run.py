"""Run a study: the teachers, then tuning, then the arms. Each result is written as it comes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from experiments.pool import Outcome, Task, preload, run_forked
from experiments.progress import TrainingProgress, duration, steps_of
from experiments.study.folders import run_folder, study_folder
from experiments.study.lines import append_line, line_key, mean_metric, read_lines
from experiments.study.plan import Arm, Run, Study
from experiments.study.train import measure, prepare, prepared
from experiments.versions import versions
from mmkd_plugin.errors import ConfigError


@dataclass
class StudyRunner:
    """Runs the trainings of a study that have no line yet.

    Args:
        study: From :func:`~experiments.study.load.load_study`.
        lines: File of its results.
        jobs: Trainings at once; each has one thread.
        arms: Only these arms; all by default.
        seeds: Only these of the study's seeds.

    Raises:
        ConfigError: If an arm or a seed is not the study's.
    """

    study: Study
    lines: Path
    jobs: int
    arms: Sequence[str] = ()
    seeds: Sequence[int] = ()

    def __post_init__(self) -> None:
        known: Sequence[object]
        for key, asked, known in (
            ('--arms', self.arms, tuple(self.study.arms)),
            ('--seeds', self.seeds, self.study.seeds),
        ):
            for item in asked:
                if item not in known:
                    fix = f'Known are {", ".join(map(str, known))}.'
                    raise ConfigError(key, 'is not part of the study', fix, found=item)
        self._arms = [self.study.arms[name] for name in self.arms or self.study.arms]
        self._folder = study_folder(self.study.name)
        self._versions = versions()
        self._failed: list[str] = []

    def tuning(self) -> list[Run]:
        """Return a run for every candidate of the arms that choose, for themselves or another."""
        choosing = dict.fromkeys(arm.chosen_by for arm in self._arms if len(arm.candidates) > 1)
        tuned = [self.study.arms[name] for name in choosing]
        return [
            Run(arm.name, name, candidate, seed, 'tune')
            for seed in self.study.tune_seeds
            for arm in tuned
            for name, candidate in arm.candidates.items()
        ]

    def reported(self) -> list[Run]:
        """Return the runs of the report, of those arms whose choice is made.

        They go seed by seed, so that an interrupted study compares all arms on fewer seeds.
        """
        chosen = [(arm, name) for arm in self._arms if (name := self.choose(arm)) is not None]
        return [
            Run(arm.name, name, arm.candidates[name], seed, 'report')
            for seed in self.seeds or self.study.seeds
            for arm, name in chosen
        ]

    def choose(self, arm: Arm) -> str | None:
        """Return the candidate with the best mean validation metric over the tuning seeds.

        It is None while tuning runs are missing.
        """
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
        """Return those without a line. The file is read each time: another job may write to it."""
        done = {line_key(line) for line in read_lines(self.lines)}
        return [run for run in runs if run.key not in done]

    def remaining(self) -> dict[str, list[Config]]:
        """Return the configs of the missing trainings, by phase."""
        settled = self.reported()
        seeds, arms = self.seeds or self.study.seeds, {run.arm for run in settled}
        unsettled = [  # any candidate stands for the one that tuning will choose
            next(iter(arm.candidates.values())).cfg
            for arm in self._arms
            if arm.name not in arms
            for _ in seeds
        ]
        return {
            'prepare': [st.cfg for st in self.study.prepare.values() if not prepared(st)],
            'tune': [run.candidate.cfg for run in self.missing(self.tuning())],
            'report': [run.candidate.cfg for run in self.missing(settled)] + unsettled,
        }

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return the number of missing trainings and of all, by phase."""
        totals = {
            'prepare': len(self.study.prepare),
            'tune': len(self.tuning()),
            'report': len(self._arms) * len(self.seeds or self.study.seeds),
        }
        return {phase: (len(cfgs), totals[phase]) for phase, cfgs in self.remaining().items()}

    def execute(self, console: Console) -> list[str]:
        """Run the missing trainings, and return a line for each failure."""
        preload(candidate.cfg for arm in self._arms for candidate in arm.candidates.values())
        phases: list[Callable[[], Iterator[Task]]] = [
            partial(self._prepare_tasks, names) for names in self.study.waves()
        ]
        phases += [self._tune_tasks, self._report_tasks]
        steps = [steps_of(cfg)[0] for cfgs in self.remaining().values() for cfg in cfgs]
        with TrainingProgress(self.study.name, steps, console) as progress:
            for tasks in phases:
                for outcome in run_forked(tasks(), self.jobs, progress.tick):
                    progress.end(outcome.task, self._record(outcome))
        for arm in self._arms:
            if self.choose(arm) is None:
                self._failed.append(f'{arm.name}: not reported, because its tuning is incomplete')
        return self._failed

    def _prepare_tasks(self, names: Sequence[str]) -> Iterator[Task]:
        for name in names:
            stage = self.study.prepare[name]
            if not prepared(stage):
                log = self._folder / f'prepare {name}.log'
                yield Task(f'prepare {name}', log, partial(prepare, stage), *steps_of(stage.cfg))

    def _tune_tasks(self) -> Iterator[Task]:
        yield from self._tasks(self.tuning())

    def _report_tasks(self) -> Iterator[Task]:
        yield from self._tasks(self.reported())

    def _tasks(self, runs: list[Run]) -> Iterator[Task]:
        for run in runs:
            if self.missing([run]):
                folder = run_folder(self.study.name, run.arm, run.name, run.seed)
                parts = run.role, run.arm, run.name, f'seed {run.seed}'
                name = ' '.join(part for part in parts if part)
                work = partial(measure, run, folder)
                yield Task(name, folder / 'run.log', work, *steps_of(run.candidate.cfg))

    def _record(self, outcome: Outcome) -> str:
        """Write the result of a task, and return it in words."""
        line, seconds = outcome.result, duration(outcome.seconds)
        if outcome.failure:
            failure = f'{outcome.failure} ({outcome.task.log})'
            self._failed.append(f'{outcome.task.name}: {failure}')
            return f'FAILED, {failure}'
        if line is None:
            return f'ready, {seconds}'
        append_line(
            self.lines,
            {'study': self.study.name, **line, 'jobs': self.jobs, 'versions': self._versions},
        )
        metric = self.study.arms[line['arm']].metric
        splits = [split for split in ('val', 'test') if metric in line.get(split, {})]
        scale = self.study.scale
        found = ''.join(f'{split} {scale * line[split][metric]:.2f}, ' for split in splits)
        return f'{found}{seconds}'
