"""A demo from the model zoo: networks that were trained before are verified and tested."""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from rich.console import Console

from experiments.demo.plan import Demo
from experiments.demo.run import result_of
from experiments.model_zoo.entry import Entry
from experiments.model_zoo.index import Zoo, write_whole
from experiments.model_zoo.verify import checked_bytes, load_entry, metrics_of
from experiments.pool import Task, preload, run_forked
from experiments.progress import duration, steps_of
from mmkd_plugin.engine.stages import WORK_ROOT_VARIABLE, Stage
from mmkd_plugin.errors import ConfigError

#: In the folder of a demo whose teachers come from the zoo.
MARK = 'model_zoo.json'


def run_pretrained(
    demo: Demo, stages: Mapping[str, Stage], jobs: int, console: Console, zoo: Zoo
) -> dict[str, float]:
    """Verify and test the networks of the zoo, and put its teachers where the students expect them.

    Args:
        demo: The demo.
        stages: Its trainings, in a folder of their own.
        jobs: Tests at once.
        console: Console for the results.
        zoo: The zoo, with a network for each teacher and student.

    Returns:
        The test metrics of teachers and students.

    Raises:
        ConfigError: If a network is not in the zoo, its file has changed, or teachers were trained
            in this folder.
        RuntimeError: If a test fails. The message is the last line of its log.
    """
    entries = {
        entry.name: entry
        for entry in zoo.named(each.name for each in (*demo.teachers, *demo.students))
    }
    commands = ' and '.join(dict.fromkeys(entry.command for entry in entries.values()))
    console.print(
        f'{len(entries)} networks of the model zoo, {os.path.relpath(zoo.folder)}.'
        f' They were trained before, by: {commands}\n'
        f'Nothing is trained now. Each is verified and tested, {jobs} at once, into'
        f' {root_of(stages)}',
        markup=False,
    )
    place_teachers(demo, stages, zoo, entries)
    preload(stage.cfg for stage in stages.values())
    tasks = [
        Task(
            name, stages[name].folder / 'demo.log', partial(_test, zoo, entry, stages[name].folder)
        )
        for name, entry in entries.items()
    ]
    measured: dict[str, float] = {}
    with closing(run_forked(tasks, jobs, tick=lambda running: None)) as outcomes:
        for outcome in outcomes:
            name, metrics = outcome.task.name, result_of(outcome)
            measured[name] = metrics[demo.measure.key] * demo.measure.scale
            shown = demo.measure.sentence.format(measured[name])
            console.print(f'{name}: {shown}, {duration(outcome.seconds)}', markup=False)
            for key, stated in entries[name].metrics.items():
                if metrics[key] != stated:
                    console.print(f'{name}: the index of the zoo states {stated} for {key}')
    return measured


def place_teachers(
    demo: Demo, stages: Mapping[str, Stage], zoo: Zoo, entries: Mapping[str, Entry]
) -> None:
    """Write the teachers' files under the names by which the configs of the students find them.

    The folder is marked, since these files pass for trained ones.

    Raises:
        ConfigError: If a file has changed, or teachers were trained in this folder.
    """
    content = {name: checked_bytes(zoo, entry) for name, entry in entries.items()}
    root = root_of(stages)
    marked, teachers = (root / MARK).exists(), [each.name for each in demo.teachers]
    for name, stage in stages.items():
        trained = stage.read_status('started.json') or stage.read_status('finished.json')
        if trained and (name in teachers or not marked):
            raise ConfigError(
                '--work-dir',
                f'must be a folder without trainings, but {name} was trained there',
                'Use another folder: the teachers of the model zoo are written there.',
                found=str(root),
            )
    root.mkdir(parents=True, exist_ok=True)
    hashes = {name: entry.sha256 for name, entry in entries.items()}
    write_whole(root / MARK, (json.dumps(hashes, indent=2) + '\n').encode())
    for name in teachers:
        folder, (count, unit) = stages[name].folder, steps_of(stages[name].cfg)
        folder.mkdir(exist_ok=True)
        write_whole(
            folder / f'{"epoch" if unit == "epochs" else "iter"}_{count}.pth', content[name]
        )


def refuse_mark(root: Path) -> None:
    """Refuse a folder whose teachers come from the zoo.

    Raises:
        ConfigError: With the remedy.
    """
    if (root / MARK).exists():
        raise ConfigError(
            '--work-dir',
            'must be a folder without networks of the model zoo, which --pretrained wrote there',
            'Use another folder, or remove this one.',
            found=str(root),
        )


def how_to_train(demo: Demo, stages: Mapping[str, Stage]) -> str:
    """Return the command that trains the last student of the demo from the teachers of the zoo."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    tool = Path(__file__).resolve().parents[2] / 'train.py'
    config = demo.configs / f'{demo.students[-1].name}.py'
    words = [str(python), '-W', 'ignore', *map(os.path.relpath, (tool, config))]
    return f'{WORK_ROOT_VARIABLE}={shlex.quote(str(root_of(stages)))} {shlex.join(words)}'


def root_of(stages: Mapping[str, Stage]) -> Path:
    """Return the folder above those of the trainings."""
    return next(iter(stages.values())).folder.parent


def _test(zoo: Zoo, entry: Entry, folder: Path) -> dict[str, float]:
    load_entry(zoo, entry)
    return metrics_of(zoo, entry.config, zoo.path(entry.weights), folder)
