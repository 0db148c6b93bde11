from pathlib import Path

import pytest
from experiments.study.lines import read_lines
from experiments.study.load import load_study
from experiments.study.run import StudyRunner
from helpers.errors import raises_config_error
from helpers.toy_run import write_config
from rich.console import Console

from mmkd_plugin.engine.stages import work_root

STUDY = """
question = 'Does momentum help?'
metric = 'toy/accuracy'
baseline = 'plain'
config = 'toy.py'
seeds = [0, 1]
arms = dict(
    plain=dict(options={'optim_wrapper.optimizer.momentum': 0.0}),
    momentum=dict(),
)
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    write_config(tmp_path / 'toy.py', 'train_cfg["max_epochs"] = 1')
    (tmp_path / 'study.py').write_text(STUDY)
    return tmp_path / 'study.py'


def runner(file: Path, **selected: list[object]) -> StudyRunner:
    return StudyRunner(load_study(file), file.with_suffix('.jsonl'), 2, **selected)  # type: ignore[arg-type]


def run(file: Path, *more: str, **selected: list[object]) -> list[str]:
    file.write_text('\n'.join([file.read_text(), *more]))
    return runner(file, **selected).execute(Console(quiet=True))


def keys(file: Path) -> list[tuple[str, int]]:
    return sorted((line['arm'], line['seed']) for line in read_lines(file.with_suffix('.jsonl')))


def test_execute_writes_a_line_for_each_arm_and_seed(study_file: Path) -> None:
    assert run(study_file) == []
    assert keys(study_file) == [('momentum', 0), ('momentum', 1), ('plain', 0), ('plain', 1)]
    line = read_lines(study_file.with_suffix('.jsonl'))[0]
    assert line['study'] == 'study'
    assert (line['epochs'], line['iterations']) == (1, 4)
    assert 0 < line['step_seconds'] < line['seconds']
    assert set(line['val']) == set(line['test']) == {'toy/accuracy'}
    assert line['versions'].keys() >= {'torch', 'mmengine', 'mmkd_plugin', 'python'}
    assert str(study_file.parent) not in study_file.with_suffix('.jsonl').read_text()
    assert not list(work_root().rglob('*.pth'))


def test_execute_without_timer_writes_the_line(study_file: Path) -> None:
    assert (
        run(
            study_file,
            "options = {'default_hooks.timer': None}",
            arms=['plain'],
            seeds=[0],
        )
        == []
    )
    [line] = read_lines(study_file.with_suffix('.jsonl'))
    assert 'step_seconds' not in line and 'toy/accuracy' in line['test']


def test_execute_a_run_depends_on_its_seed_alone(study_file: Path) -> None:
    run(study_file)
    first = {
        (line['arm'], line['seed']): line['test']
        for line in read_lines(study_file.with_suffix('.jsonl'))
    }
    study_file.with_suffix('.jsonl').unlink()
    run(study_file, arms=['plain'], seeds=[1])
    (again,) = read_lines(study_file.with_suffix('.jsonl'))
    assert again['test'] == first['plain', 1]


def test_execute_trains_missing_runs_only(study_file: Path) -> None:
    run(study_file, arms=['plain'])
    before = study_file.with_suffix('.jsonl').read_text()
    assert runner(study_file).counts() == {'prepare': (0, 0), 'tune': (0, 0), 'report': (2, 4)}
    run(study_file)
    assert study_file.with_suffix('.jsonl').read_text().startswith(before)
    assert len(keys(study_file)) == 4
    run(study_file)
    assert len(keys(study_file)) == 4


def test_execute_changed_arm_runs_again_alone(study_file: Path) -> None:
    run(study_file)
    run(study_file, "arms['momentum'] = dict(options={'optim_wrapper.optimizer.momentum': 0.5})")
    assert [arm for arm, _ in keys(study_file)] == ['momentum'] * 4 + ['plain'] * 2


def test_execute_failed_run_names_its_log_and_the_others_run(study_file: Path) -> None:
    failures = run(
        study_file, "arms['broken'] = dict(options={'model.fail_in_step': 1})", seeds=[0]
    )
    (told,) = failures
    assert told.startswith('report broken seed 0: RuntimeError: this toy is made to fail (')
    assert Path(told.rpartition('(')[2].rstrip(')')).exists()
    assert keys(study_file) == [('momentum', 0), ('plain', 0)]


def test_execute_trains_teachers_first_and_once(study_file: Path) -> None:
    teacher = "prepare = dict(teacher=dict(config='toy.py'))"
    checkpoint = '{{$MMKD_WORK_DIR:work_dirs}}/teacher/epoch_1.pth'
    taught = f"arms['taught'] = dict(options={{'load_from': '{checkpoint}'}})"
    assert run(study_file, teacher, taught, arms=['taught'], seeds=[0]) == []
    written = (work_root() / 'teacher/epoch_1.pth').stat().st_mtime_ns
    assert run(study_file, arms=['taught']) == []
    assert (work_root() / 'teacher/epoch_1.pth').stat().st_mtime_ns == written
    run(study_file, "prepare['teacher']['options'] = {'randomness.seed': 3}", arms=['taught'])
    assert (work_root() / 'teacher/epoch_1.pth').stat().st_mtime_ns != written
    assert (
        keys(study_file) == [('taught', 0)] * 2 + [('taught', 1)] * 2
    )  # by the first teacher, and by the second


def test_execute_stage_waits_for_the_stage_that_it_names(study_file: Path) -> None:
    first = '{{$MMKD_WORK_DIR:work_dirs}}/first/epoch_1.pth'
    second = '{{$MMKD_WORK_DIR:work_dirs}}/second/epoch_1.pth'
    stages = f"""prepare = dict(
        first=dict(config='toy.py'),
        second=dict(config='toy.py', options=dict(load_from='{first}')),
    )"""
    taught = f"arms = dict(plain=dict(options={{'load_from': '{second}'}}))"
    assert run(study_file, stages, taught, seeds=[0]) == []
    study = load_study(study_file)
    assert study.waves() == [['first'], ['second']]
    run(study_file, "prepare['first']['options'] = {'randomness.seed': 3}", seeds=[0])
    changed = load_study(study_file)
    assert changed.prepare['second'].sha256 != study.prepare['second'].sha256, (
        'its teacher is another one'
    )
    assert keys(study_file) == [('plain', 0)] * 2


def test_execute_validation_chooses_on_the_tuning_seeds(study_file: Path) -> None:
    # A step of 0 never leaves the initial guess; the other candidate learns.
    tuned = "arms['tuned'] = dict(grid={'optim_wrapper.optimizer.lr': [0.0, 0.1]})"
    parts = "arms['part'] = dict(options={'model.dropout': 0.0}, choice_of='tuned')"
    assert run(study_file, 'tune_seeds = [100, 101]', tuned, parts, arms=['part', 'tuned']) == []
    lines = read_lines(study_file.with_suffix('.jsonl'))
    tuning = [
        (line['arm'], line['candidate'], line['seed']) for line in lines if line['role'] == 'tune'
    ]
    assert sorted(tuning) == [
        ('tuned', f'lr={lr}', seed) for lr in (0.0, 0.1) for seed in (100, 101)
    ]
    reported = [
        (line['arm'], line['candidate'], line['seed']) for line in lines if line['role'] == 'report'
    ]
    assert sorted(reported) == [
        (arm, 'lr=0.1', seed) for arm in ('part', 'tuned') for seed in (0, 1)
    ]


def test_study_runner_unknown_arm_or_seed_is_refused(study_file: Path) -> None:
    with raises_config_error('--arms', 'nobody', 'plain, momentum'):
        runner(study_file, arms=['nobody'])
    with raises_config_error('--seeds', 5, '0, 1'):
        runner(study_file, seeds=[5])
