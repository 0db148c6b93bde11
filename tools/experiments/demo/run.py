"""Running a demo: several trainings at once, each as soon as what it needs is there, with a bar for each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial

from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console

from experiments.demo.bars import Bars
from experiments.demo.plan import Demo
from experiments.demo.train import train, train_and_test
from experiments.pool import Outcome, Task, run_forked
from experiments.study.train import preload
from mmkd_plugin.engine.stages import Stage


def run_demo(
    demo: Demo, stages: Mapping[str, Stage], jobs: int, console: Console
) -> dict[str, float]:
    """Do what is not done yet, and give what teachers and students reached on the test images.

    Args:
        demo: What to run.
        stages: Its trainings, from :meth:`~experiments.demo.plan.Demo.load`.
        jobs: Trainings at once.
        console: Where bars and results are shown.

    Raises:
        RuntimeError: If one fails; the message is the last line of its log.
    """
    preload(stage.cfg for stage in stages.values())
    if demo.data:
        console.print(demo.data)
        _write_data(stages[demo.trainings[0].name])
    tasks = _tasks(demo, stages)
    for task in tasks.values():
        task.log.unlink(missing_ok=True)  # a bar shall not show what an earlier run told
    measured: dict[str, float] = {}
    with (
        Bars(tasks, stages, console) as bars,
        closing(run_forked(_as_needed(demo, tasks, bars.ended), jobs, tick=bars.look)) as outcomes,
    ):
        for outcome in outcomes:
            name, result = outcome.task.name, _result(outcome)
            bars.end(name)
            told = 'ready'
            if result is not None:
                measured[name] = result * demo.measure.scale
                told = demo.measure.told.format(measured[name])
            bars.say(f'{name}: {told}, {outcome.seconds:.0f} s')
    return measured


def _tasks(demo: Demo, stages: Mapping[str, Stage]) -> dict[str, Task]:
    unmeasured = {training.name for training in demo.between}
    works: dict[str, Callable[[], float | None]] = {
        name: partial(train, stage)
        if name in unmeasured
        else partial(train_and_test, stage, demo.measure.key)
        for name, stage in stages.items()
    }
    return {
        name: Task(name, stages[name].folder / 'demo.log', work) for name, work in works.items()
    }


def _as_needed(demo: Demo, tasks: Mapping[str, Task], ended: set[str]) -> Iterator[Task | None]:
    """The first that waits for nothing any more; None while there is no such."""
    waiting = list(demo.trainings)
    while waiting:
        ready = next((training for training in waiting if ended.issuperset(training.needs)), None)
        if ready is None:
            yield None
        else:
            waiting.remove(ready)
            yield tasks[ready.name]


def _write_data(stage: Stage) -> None:
    """Let the data set write its files once, before all trainings want them; in a process of its own, as they are."""
    task = Task('data', stage.folder.parent / 'data.log', partial(_build_data, stage))
    with closing(run_forked([task], 1, tick=lambda: None)) as outcomes:
        for outcome in outcomes:
            _result(outcome)


def _build_data(stage: Stage) -> None:
    init_default_scope(stage.cfg.default_scope)  # its transforms are the host's
    DATASETS.build(stage.cfg.train_dataloader.dataset)


def _result(outcome: Outcome) -> float | None:
    if outcome.failure:
        raise RuntimeError(
            f'{outcome.task.name} failed: {outcome.failure}\nIts log: {outcome.task.log}'
        )
    return outcome.result
