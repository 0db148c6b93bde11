"""Lines of progress, with a clock that the tests set."""

import io
from pathlib import Path

import pytest
from experiments.pool import Task
from experiments.progress import Heartbeat, Steps, TrainingProgress, duration, read_steps, steps_of
from mmengine.config import Config
from rich.console import Console


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def task(folder: Path, name: str, steps: int = 30) -> Task:
    return Task(name, folder / f'{name}.log', lambda: None, steps, 'epochs')


def report_epochs(done: Task, epochs: int, before: str = '') -> None:
    done.log.write_text(f'{before}INFO - Epoch(train) [{epochs}][40/40]  lr: 1\n')


def test_heartbeat_called_often_prints_once_a_minute(clock: Clock) -> None:
    printed: list[str] = []
    heart = Heartbeat(printed.append, clock)
    for clock.now in range(0, 200, 7):
        heart.beat(lambda: f'{clock.now} s')
    assert printed == ['63 s', '126 s', '189 s']


def test_heartbeat_called_rarely_prints_each_time(clock: Clock) -> None:
    printed: list[str] = []
    heart = Heartbeat(printed.append, clock)
    for clock.now in (90, 180, 600):
        heart.beat(lambda: f'{clock.now} s')
    assert printed == ['90 s', '180 s', '600 s']


def test_training_progress_without_terminal_prints_tasks_share_and_time_left(
    tmp_path: Path, clock: Clock
) -> None:
    log = io.StringIO()
    first, second, third = (task(tmp_path, name) for name in ('first', 'second', 'third'))
    with TrainingProgress('demo', [30, 30, 30], Console(file=log, width=80), clock) as progress:
        progress.tick([first, second])
        clock.now = 61
        progress.tick([first, second])
        report_epochs(first, 20)
        report_epochs(second, 7)
        clock.now = 90
        progress.tick([first, second])
        clock.now = 121
        progress.tick([first, second])  # 27 of 90 epochs in 121 s: 63 epochs take 282 s
        report_epochs(first, 30)
        progress.end(first, '81.0%, 2 min')
        clock.now = 180
        progress.tick([second, third])
        clock.now = 200
        progress.tick([second, third])  # 37 of 90 epochs in 200 s: 53 epochs take 286 s
    assert log.getvalue().splitlines() == [
        'demo: 0% after 61 s, time left not known yet. '
        'Running: first (0 of 30 epochs), second (0 of 30 epochs)',
        'demo: 30% after 2 min, about 5 min left. '
        'Running: first (20 of 30 epochs), second (7 of 30 epochs)',
        'first: 81.0%, 2 min',
        'demo: 41% after 3 min, about 5 min left. '
        'Running: second (7 of 30 epochs), third (0 of 30 epochs)',
    ]


def test_training_progress_earlier_work_counts_as_done_but_not_as_pace(
    tmp_path: Path, clock: Clock
) -> None:
    """An interrupted run had finished one training and 20 epochs of another."""
    progress = TrainingProgress('demo', [30, 30], Console(file=io.StringIO()), clock)
    finished, resumed = task(tmp_path, 'finished'), task(tmp_path, 'resumed')
    finished.log.write_text('Stage 1 of 1: skip finished\n')
    progress.end(finished, 'ready')
    report_epochs(resumed, 21, 'INFO - resumed epoch: 20, iter: 800\n')
    clock.now = 60
    progress.tick([resumed])  # one epoch a minute, nine are left
    assert progress.line() == (
        'demo: 85% after 60 s, about 9 min left. Running: resumed (21 of 30 epochs)'
    )


def test_training_progress_on_a_terminal_shows_bars_and_no_lines(
    tmp_path: Path, clock: Clock
) -> None:
    log = io.StringIO()
    console = Console(file=log, width=120, force_terminal=True, _environ={'TERM': 'xterm'})
    only = task(tmp_path, 'only')
    with TrainingProgress('demo', [30], console, clock) as progress:
        report_epochs(only, 10)
        clock.now = 120
        progress.tick([only])
        progress.end(only, 'ready')
    assert '10 of 30 epochs' in log.getvalue() and 'about 4 min left' in log.getvalue()
    assert 'only: ready' in log.getvalue()
    assert 'Running:' not in log.getvalue()


@pytest.mark.parametrize(
    ('text', 'steps'),
    [
        ('loading\n', Steps()),
        ('Epoch(train)  [9][39/39]  lr: 1\nEpoch(train) [10][20/40]  lr: 1\n', Steps(9.5)),
        ('Epoch(train) [10][40/40]  lr: 1\nEpoch(val) [10][5/5]\n', Steps(10)),
        ('Iter(train) [  50/1000]  lr: 1\nIter(train) [ 100/1000]\nIter(val) [5/5]\n', Steps(100)),
        ('resumed epoch: 3, iter: 117\nEpoch(train) [4][39/39]\n', Steps(4, 3)),
        ('resumed epoch: 0, iter: 500\nIter(train) [ 550/1000]\n', Steps(550, 500)),
    ],
)
def test_read_steps_returns_what_the_log_reports(tmp_path: Path, text: str, steps: Steps) -> None:
    (tmp_path / 'run.log').write_text(text)
    assert read_steps(tmp_path / 'run.log') == steps


def test_read_steps_without_log_returns_zero(tmp_path: Path) -> None:
    assert read_steps(tmp_path / 'none.log') == Steps()


def test_steps_of_returns_the_unit_of_the_loop() -> None:
    epochs = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=9)))
    iterations = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=70)))
    assert steps_of(epochs) == (9, 'epochs')
    assert steps_of(iterations) == (70, 'iterations')


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0.4, '0 s'), (99, '99 s'), (150, '2 min'), (8000, '2.2 h')]
)
def test_duration_returns_the_usual_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
