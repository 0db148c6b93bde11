"""Order, bars, failures and the table, of trainings that only wait."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from experiments.demo import run as room
from experiments.demo.command import table_of
from experiments.demo.plan import Demo, Measure, Training
from experiments.demo.run import run_demo
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
        Training('taught', 'student by both', needs=('slow', 'between')),
    ),
    measure=Measure('score', title='test score', told='{:.1f} points', scale=100.0),
    against='alone',
    against_title='against alone',
)
PATIENCE = 60  # seconds, of what is waited for: never reached where all is well
SCORES = dict(quick=0.5, slow=0.625, alone=0.25, taught=0.3125)


@pytest.fixture
def stages(tmp_path: Path) -> dict[str, Stage]:
    cfg = dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=70))
    return {
        training.name: Stage(Config(cfg | dict(work_dir=str(tmp_path / training.name))), '')
        for training in DEMO.trainings
    }


@pytest.fixture
def until(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """In place of trainings: each tells of 50 iterations and leaves the time at which it began and ended.

    What is put in here by name waits for the end of another.
    """
    until: dict[str, str] = {}

    def train(stage: Stage) -> None:
        name = stage.folder.name
        began = time.monotonic()
        print('Iter(train) [ 50/70]')
        while name in until and not (tmp_path / f'{until[name]}.times').exists():
            assert time.monotonic() < began + PATIENCE
            time.sleep(0.02)
        (tmp_path / f'{name}.times').write_text(f'{began} {time.monotonic()}')

    def train_and_test(stage: Stage, key: str) -> float:
        assert key == 'score'
        train(stage)
        return SCORES[stage.folder.name]

    monkeypatch.setattr(room, 'train', train)
    monkeypatch.setattr(room, 'train_and_test', train_and_test)
    return until


def times(folder: Path, name: str) -> tuple[float, float]:
    began, ended = (folder / f'{name}.times').read_text().split()
    return float(began), float(ended)


def ran(demo: Demo, stages: dict[str, Stage], jobs: int) -> tuple[dict[str, float], str]:
    told = io.StringIO()
    return run_demo(demo, stages, jobs, Console(file=told, width=200)), told.getvalue()


@pytest.mark.parametrize('jobs', [1, 2])
def test_each_waits_for_what_it_needs_and_for_nothing_else(
    tmp_path: Path, stages: dict[str, Stage], until: dict[str, str], jobs: int
) -> None:
    if jobs == 2:
        until['slow'] = 'alone'  # a free core is used while a teacher is still learning
    measured, told = ran(DEMO, stages, jobs)
    assert measured == dict(quick=50.0, slow=62.5, alone=25.0, taught=31.25)
    spans = {training.name: times(tmp_path, training.name) for training in DEMO.trainings}
    for training in DEMO.trainings:
        for needed in training.needs:
            assert spans[needed][1] <= spans[training.name][0]
    assert 'slow: 62.5 points, ' in told and 'between: ready, ' in told
    assert told.count('70/70 iterations') == 5


def test_a_failure_ends_the_others_and_names_its_log(
    tmp_path: Path, stages: dict[str, Stage], until: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until['slow'] = 'never'
    monkeypatch.delitem(SCORES, 'quick')
    with pytest.raises(
        RuntimeError,
        match=rf"^quick failed: KeyError: 'quick'\nIts log: {tmp_path}/quick/demo.log$",
    ):
        ran(DEMO, stages, 2)
    assert not (tmp_path / 'slow.times').exists()


@pytest.mark.usefixtures('until')
def test_data_are_written_before_the_first_training(
    tmp_path: Path, stages: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(stage: Stage) -> None:
        assert stage.folder.name == 'quick'
        raise ValueError('no room on the disk')

    monkeypatch.setattr(room, '_build_data', build)
    with pytest.raises(RuntimeError, match='data failed: ValueError: no room on the disk'):
        ran(replace(DEMO, data='Writing'), stages, 2)
    assert not list(tmp_path.glob('*.times'))


def test_students_are_compared_in_the_table() -> None:
    told = io.StringIO()
    Console(file=told, width=200).print(
        table_of(DEMO, dict(quick=50.0, slow=62.5, alone=25.0, taught=31.25))
    )
    rows = [
        [cell.strip() for cell in line.split('  ') if cell.strip()]
        for line in told.getvalue().splitlines()
    ]
    assert rows == [
        ['test score', 'against alone'],
        ['the quick teacher', '50.0'],
        ['the slow teacher', '62.5'],
        ['student alone', '25.0'],
        ['student by both', '31.2', '+6.2'],
    ]
