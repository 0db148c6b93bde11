"""Order, failures and the table of a demo, with trainings that only wait for each other."""

import io
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from experiments.demo import run as room
from experiments.demo.command import table_of
from experiments.demo.plan import Demo, Measure, Training
from experiments.demo.run import run_demo
from experiments.pool import Task
from experiments.progress import TrainingProgress
from mmengine.config import Config
from rich.console import Console

from mmkd_plugin.engine.stages import Stage

DEMO = Demo(
    name='toy',
    about='Five trainings',
    configs=Path('configs'),
    teachers=(Training('quick', 'the quick teacher'), Training('slow', 'the slow teacher')),
    between=(Training('between', needs=('quick',)),),
    students=(
        Training('alone', 'student alone'),
        Training('distilled', 'student of both', needs=('slow', 'between')),
    ),
    measure=Measure('score', title='test score', sentence='{:.1f} points', scale=100.0),
    against='alone',
    against_title='against alone',
)
SCORES = dict(quick=0.5, slow=0.625, alone=0.25, distilled=0.3125)


@pytest.fixture
def stages(tmp_path: Path) -> dict[str, Stage]:
    cfg = dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=70))
    return {
        training.name: Stage(Config(cfg | dict(work_dir=str(tmp_path / training.name))), '')
        for training in DEMO.trainings
    }


class Fakes:
    """Trainings that write when they begin and end, and may wait for the end of another.

    ``until`` names it: ``{'slow': 'alone'}``; None waits for ever.
    """

    def __init__(self, folder: Path) -> None:
        self.events, self.until = folder / 'events', dict[str, str | None]()
        fork = multiprocessing.get_context('fork')
        self.ended = {training.name: fork.Event() for training in DEMO.trainings}
        self.never = fork.Event()
        self.events.touch()

    def train(self, stage: Stage) -> None:
        name = stage.folder.name
        self.write(f'{name} begins')
        print('Iter(train) [ 50/70]')
        if name in self.until:
            other = self.until[name]
            (self.ended[other] if other else self.never).wait()
        self.write(f'{name} ends')
        self.ended[name].set()

    def train_and_test(self, stage: Stage, key: str) -> float:
        assert key == 'score'
        self.train(stage)
        return SCORES[stage.folder.name]

    def write(self, event: str) -> None:
        with self.events.open('a') as file:  # a line this short is appended whole
            file.write(f'{event}\n')

    def log(self) -> list[str]:
        return self.events.read_text().splitlines()


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    fakes, before = Fakes(tmp_path), multiprocessing.active_children()

    class Watched(TrainingProgress):
        """Fails if only waiting trainings run, and nothing has happened since the last tick."""

        last: list[str] | None = None

        def tick(self, running: Sequence[Task]) -> None:
            super().tick(running)
            awaited = [fakes.until.get(task.name) for task in running]
            blocked = running and all(name and not fakes.ended[name].is_set() for name in awaited)
            if blocked and self.last == fakes.log():
                raise AssertionError(f'only {[task.name for task in running]} run, and wait')
            self.last = fakes.log()

    monkeypatch.setattr(room, 'TrainingProgress', Watched)
    monkeypatch.setattr(room, 'train', fakes.train)
    monkeypatch.setattr(room, 'train_and_test', fakes.train_and_test)
    yield fakes
    for child in set(multiprocessing.active_children()) - set(before):
        child.kill()


def ran(demo: Demo, stages: dict[str, Stage], jobs: int) -> tuple[dict[str, float], str]:
    printed = io.StringIO()
    return run_demo(demo, stages, jobs, Console(file=printed, width=200)), printed.getvalue()


@pytest.mark.parametrize('jobs', [1, 2])
def test_run_demo_each_training_waits_for_its_needs_alone(
    stages: dict[str, Stage], fakes: Fakes, jobs: int
) -> None:
    if jobs == 2:
        fakes.until['slow'] = 'alone'  # a free job is used while a teacher is still trained
    measured, printed = ran(DEMO, stages, jobs)
    assert measured == dict(quick=50.0, slow=62.5, alone=25.0, distilled=31.25)
    for training in DEMO.trainings:
        for needed in training.needs:
            assert fakes.log().index(f'{needed} ends') < fakes.log().index(
                f'{training.name} begins'
            )
    assert 'slow: 62.5 points, ' in printed and 'between: ready, ' in printed


def test_run_demo_one_job_would_wait_for_ever_and_fails(
    stages: dict[str, Stage], fakes: Fakes
) -> None:
    """The control of the test above: a job that nobody else may use is noticed."""
    fakes.until['slow'] = 'alone'
    with pytest.raises(AssertionError, match='slow'):
        ran(DEMO, stages, 1)


def test_run_demo_failed_training_ends_the_others_and_names_its_log(
    tmp_path: Path, stages: dict[str, Stage], fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.until['slow'] = None
    monkeypatch.delitem(SCORES, 'quick')
    with pytest.raises(RuntimeError) as error:
        ran(DEMO, stages, 2)
    assert str(error.value).startswith('quick failed: ')
    assert "KeyError: 'quick'" in str(error.value)
    assert f'{tmp_path}/quick/demo.log' in str(error.value)
    assert 'slow ends' not in fakes.log()


def test_run_demo_data_that_fail_begin_no_training(
    stages: dict[str, Stage], fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(stage: Stage) -> None:
        assert stage.folder.name == 'quick'
        raise ValueError('no space on the disk')

    monkeypatch.setattr(room, '_build_data', build)
    with pytest.raises(RuntimeError, match='no space on the disk'):
        ran(replace(DEMO, data='Writing'), stages, 2)
    assert fakes.log() == []


def test_table_of_compares_the_students() -> None:
    printed = io.StringIO()
    Console(file=printed, width=200).print(
        table_of(DEMO, dict(quick=50.0, slow=62.5, alone=25.0, distilled=31.25))
    )
    rows = [
        [cell.strip() for cell in line.split('  ') if cell.strip()]
        for line in printed.getvalue().splitlines()
    ]
    assert rows == [
        ['test score', 'against alone'],
        ['the quick teacher', '50.0'],
        ['the slow teacher', '62.5'],
        ['student alone', '25.0'],
        ['student of both', '31.2', '+6.2'],
    ]
