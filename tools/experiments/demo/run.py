"""Run a demo: several trainings at once, each as soon as its teachers are there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console

from experiments.demo.plan import Demo
from experiments.demo.train import train, train_and_test
from experiments.pool import Outcome, Task, preload, run_forked
from experiments.progress import TrainingProgress, duration, steps_of
from mmkd_plugin.engine.stages import Stage


def run_demo(
    demo: Demo, stages: Mapping[str, Stage], jobs: int, console: Console
) -> dict[str, float]:
    """Do what is not done yet, and return the test metrics of teachers and students.

    Args:
        demo: The demo.
        stages: Its trainings, from :meth:`~experiments.demo.plan.Demo.load`.
        jobs: Trainings at once.
        console: Console for progress and results.

    Raises:
        RuntimeError: If a training fails. The message is the last line of its log.
    """
    preload(stage.cfg for stage in stages.values())
    if demo.data:
        console.print(demo.data)
        _write_data(stages[demo.trainings[0].name])
    tasks = _tasks(demo, stages)
    for task in tasks.values():
        task.log.unlink(missing_ok=True)  # an earlier run's log is no progress of this one
    measured: dict[str, float] = {}
    ended: set[str] = set()
    with (
        TrainingProgress(demo.name, [task.steps for task in tasks.values()], console) as progress,
        closing(run_forked(_in_order(demo, tasks, ended), jobs, progress.tick)) as outcomes,
    ):
        for outcome in outcomes:
            name, result = outcome.task.name, result_of(outcome)
            ended.add(name)
            shown = 'ready'
            if result is not None:
                measured[name] = result * demo.measure.scale
                shown = demo.measure.sentence.format(measured[name])
            progress.end(outcome.task, f'{shown}, {duration(outcome.seconds)}')
    return measured


def _tasks(demo: Demo, stages: Mapping[str, Stage]) -> dict[str, Task]:
    unmeasured = {training.name for training in demo.between}
    tasks = {}
    for name, stage in stages.items():
        work: Callable[[], float | None] = (
            partial(train, stage)
            if name in unmeasured
            else partial(train_and_test, stage, demo.measure.key)
        )
        tasks[name] = Task(name, stage.folder / 'demo.log', work, *steps_of(stage.cfg))
    return tasks


def _in_order(demo: Demo, tasks: Mapping[str, Task], ended: set[str]) -> Iterator[Task | None]:
    """Yield the first task whose needs have ended; None while there is none."""
    waiting = list(demo.trainings)
    while waiting:
        ready = next((training for training in waiting if ended.issuperset(training.needs)), None)
        if ready is None:
            yield None
        else:
            waiting.remove(ready)
            yield tasks[ready.name]


def _write_data(stage: Stage) -> None:
    """Let the data set write its files once, in a process of its own, before the trainings."""
    task = Task('data', stage.folder.parent / 'data.log', partial(_build_data, stage))
    with closing(run_forked([task], 1, tick=lambda running: None)) as outcomes:
        for outcome in outcomes:
            result_of(outcome)


def _build_data(stage: Stage) -> None:
    init_default_scope(stage.cfg.default_scope)  # its transforms are the host's
    DATASETS.build(stage.cfg.train_dataloader.dataset)


def result_of(outcome: Outcome) -> Any:
    """Return the result of a task.

    Raises:
        RuntimeError: If it failed. The message has the last line of its log.
    """
    if outcome.failure:
        raise RuntimeError(
            f'{outcome.task.name} failed: {outcome.failure}\nIts log: {outcome.task.log}'
        )
    return outcome.result
