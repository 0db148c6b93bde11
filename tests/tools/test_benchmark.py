"""The benchmark on small sizes. Its bounds are for full sizes and a quiet machine."""

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmkd_plugin.models.losses import angle_loss

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package beside the tool, which a script's own folder makes importable."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import benchmarks.angle
    import benchmarks.steps

    return benchmarks


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, benchmarks: ModuleType) -> Callable[..., None]:
    def run(*arguments: str) -> None:
        # Without that option the tool starts anew, in this process's place.
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', '--system-allocator', *arguments])
        runpy.run_path(str(TOOLS / 'benchmark.py'), run_name='__main__')

    return run


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is what gives memory back')
def test_benchmark_starts_anew_with_an_allocator_that_keeps_memory(
    monkeypatch: pytest.MonkeyPatch, benchmarks: ModuleType
) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        started.append((path, arguments, environment))
        raise SystemExit

    monkeypatch.setattr(os, 'execve', execve)
    for name in ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'argv', ['benchmark.py'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOLS / 'benchmark.py'), run_name='__main__')
    ((path, arguments, environment),) = started
    assert path == arguments[0] == sys.executable
    assert environment.items() >= {**os.environ, 'MALLOC_TRIM_THRESHOLD_': str(2**34)}.items()


def test_benchmark_progress_prints_subject_round_and_time_left_once_a_minute(
    benchmarks: ModuleType,
) -> None:
    from benchmark import BenchmarkProgress

    lines: list[str] = []
    clock = 0.0
    usual = dict(angle=40.0, steps=80.0)
    progress = BenchmarkProgress(['angle', 'steps'], 7, usual, lines.append, lambda: clock)
    progress.begin('angle')
    for number in range(1, 9):
        clock = 10.0 * number
        progress.round(number, 8)
    progress.begin('steps')  # angle took 80 s, twice its usual time: steps may take 160 s
    clock = 130.0
    progress.round(3, 8)
    clock = 250.0
    progress.round(8, 8)
    assert lines == [
        'benchmark: angle, subject 1 of 2, round 6 of 8, after 60 s, about 60 s left',
        'benchmark: steps, subject 2 of 2, round 3 of 8, after 2 min, about 2 min left',
        'benchmark: steps, subject 2 of 2, round 8 of 8, after 4 min, longer than usual',
    ]


def test_seconds_in_turns_reports_each_round(
    benchmarks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[tuple[int, int]] = []
    monkeypatch.setattr(benchmarks.measure, 'on_round', lambda *round_: rounds.append(round_))
    benchmarks.measure.seconds_in_turns({'a': lambda: None}, 2, torch.device('cpu'))
    assert rounds == [(1, 3), (2, 3), (3, 3)]


def test_seconds_in_turns_first_round_is_not_counted(benchmarks: ModuleType) -> None:
    calls: list[str] = []
    tasks = {name: lambda name=name: calls.append(name) for name in 'abc'}
    seconds = benchmarks.measure.seconds_in_turns(tasks, 3, torch.device('cpu'))
    assert ''.join(calls) == 'cab' + 'abc' + 'bca' + 'cab'
    assert {name: len(rounds) for name, rounds in seconds.items()} == dict(a=3, b=3, c=3)


@pytest.mark.parametrize(
    ('bounds', 'promise', 'met'),
    [
        (dict(at_most=2.0), '≤ 2×', True),
        (dict(at_most=1.9), '≤ 1.9×', False),
        (dict(at_least=2.0), '≥ 2×', True),
        (dict(at_least=2.1), '≥ 2.1×', False),
        ({}, '', None),
    ],
)
def test_ratio_is_judged_by_the_median_of_its_rounds(
    benchmarks: ModuleType, bounds: dict[str, float], promise: str, met: bool | None
) -> None:
    result = benchmarks.measure.ratio('x', [9.0, 2.0, 1.5], **bounds)
    assert (result.value, result.shown, result.bound, result.met) == (
        2.0,
        '2× (1.5–9)',
        promise,
        met,
    )


def test_usual_angle_loss_is_the_same_loss(benchmarks: ModuleType) -> None:
    student, teacher = torch.randn(2, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(
        benchmarks.angle.usual_angle_loss(student, teacher), angle_loss(student, teacher)
    )


@pytest.mark.slow
def test_benchmark_angle_is_measured_and_exact(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        'angle',
        '--quick',
        '--repeats',
        '2',
        '--device',
        'cpu',
        '--json',
        str(tmp_path / 'angle.json'),
    )
    report = json.loads((tmp_path / 'angle.json').read_text())
    by_name = {result['name']: result for result in report['results']}
    assert (report['threads'], report['repeats'], len(by_name)) == (1, 2, 7)
    errors = [result for name, result in by_name.items() if 'error' in name]
    assert [result['met'] for result in errors] == [True] * 4
    assert (
        0 < by_name['angle loss, N=64, D=50: extra memory']['value'] < 64
    )  # MiB, in a process of its own
    shown = capsys.readouterr().out.splitlines()[1:]
    assert [line[0] for line in shown] == [' ', '✓', '✓', ' ', '✓', '✓', ' ']
    assert all(
        result['name'] in line for result, line in zip(report['results'], shown, strict=True)
    )


@pytest.mark.slow
def test_benchmark_steps_are_compared_with_their_parts(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('mmpretrain')
    run('steps', '--quick', '--repeats', '1', '--device', 'cpu')
    shown = capsys.readouterr().out.splitlines()[1:]
    assert [line[2:10] for line in shown] == ['SoftTarg', 'AMTML-KD']
    assert all('of its parts' in line and '×' in line for line in shown)


@pytest.mark.slow
def test_benchmark_ie_kd_and_mutual_are_compared_with_their_parts(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('mmpretrain')
    run('ie_kd', '--quick', '--repeats', '1', '--device', 'cpu')
    whole, early = capsys.readouterr().out.splitlines()[1:]
    assert whole[2:].startswith('IE-KD step, ResNet-14 to 8, batch 16: of its parts')
    assert early[2:].startswith('ResNet-14 tapped at backbone.layer1: of its whole forward')
    run('mutual', '--quick', '--repeats', '1', '--device', 'cpu')
    shown = capsys.readouterr().out.splitlines()[1:]
    assert ['simultaneous' in line for line in shown] == [True, False, False, True]
    assert ['memory' in line for line in shown] == [False, False, True, True]


@pytest.mark.slow
def test_benchmark_detection_is_compared_with_its_parts_and_keeps_no_memory(
    run: Callable[..., None], tmp_path: Path
) -> None:
    pytest.importorskip('mmdet')
    run(
        'detection',
        '--quick',
        '--repeats',
        '1',
        '--device',
        'cpu',
        '--json',
        str(tmp_path / 'detection.json'),
    )
    results = json.loads((tmp_path / 'detection.json').read_text())['results']
    subjects = ('Hint', 'IE-KD', 'SoftTarget')
    assert [result['name'].split(', ')[2] for result in results] == [
        f'{subject}: {what}'
        for subject in subjects
        for what in ('of its parts', 'of its parts and encoders', 'kept of teachers')
        if subject == 'IE-KD' or 'encoders' not in what
    ]
    hint, ie_kd, soft = (result for result in results if 'kept' in result['name'])
    assert hint['value'] > 0 == ie_kd['value'] == soft['value'], 'the maps that a hint regresses'
    assert hint['met'] and ie_kd['met'] and soft['met']


@pytest.mark.slow
def test_benchmark_methods_are_compared_with_their_parts_and_alone(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('mmpretrain')
    pytest.importorskip('mmdet')
    run('methods', '--quick', '--repeats', '1', '--device', 'cpu')
    from benchmarks.methods import DENSE, LOGITS

    lines = [line for line in capsys.readouterr().out.splitlines() if 'of its parts' in line]
    names = [*LOGITS, *DENSE]
    assert 'CrossKD' in names
    for name, whole, alone in zip(names, lines[::2], lines[1::2], strict=True):
        assert f' px, {name}: of its parts' in whole
        assert f' px, {name}, loss alone: of its parts' in alone
    own = [name for name, line in zip(names, lines[::2], strict=True) if 'and networks' in line]
    assert own == ['MGD', 'FGD', 'CrossKD']


@pytest.mark.slow
def test_benchmark_memory_of_losses_is_next_to_what_they_compare(
    run: Callable[..., None], tmp_path: Path
) -> None:
    pytest.importorskip('mmdet')
    report = tmp_path / 'memory.json'
    run('loss_memory', '--quick', '--device', 'cpu', '--json', str(report))
    results = json.loads(report.read_text())['results']
    from benchmarks.methods import DENSE

    assert [one['name'].split(', ')[2].split(':')[0] for one in results] == [*DENSE]
    values = {one['name'].split(', ')[2].split(':')[0]: one['value'] for one in results}
    assert 0 < values['LD'] < 1 < values['BCKD'] < 6


@pytest.mark.parametrize('option', ['--repeats', '--threads'])
def test_benchmark_numbers_below_one_are_refused(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit):
        run(option, '0')
    assert f'{option}: must be an integer >= 1 (found 0)' in capsys.readouterr().err
