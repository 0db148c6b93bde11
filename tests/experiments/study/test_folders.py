from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments.study.folders import (
    NO_CURVES,
    NO_FOLDER,
    NO_LOG,
    OTHER_RUN,
    find_files,
    other_logs,
    run_folder,
    study_folder,
)
from experiments.study.lines import read_lines
from experiments.study.load import load_study
from experiments.study.run import StudyRunner
from helpers.studies import METRIC, line, write_run, write_study
from rich.console import Console

OLD, NEW = '20260101_000000', '20260102_000000'
RUN = line('plain', 2, 70.0)


def test_find_files_real_runs_have_log_and_records(tmp_path: Path) -> None:
    """The folders are those of a real Runner: a run that ends, and one that fails."""
    file = write_study(tmp_path)
    file.write_text(f"{file.read_text()}arms['large']['options'] = {{'model.fail_in_step': 1}}\n")
    runner = StudyRunner(load_study(file), tmp_path / 'toys.jsonl', 2, ['plain', 'large'], [2])
    runner.execute(Console(quiet=True))
    (ended,) = read_lines(tmp_path / 'toys.jsonl')
    (found,) = find_files('toys', [ended])
    assert found.missing == ''
    assert found.records[-1][METRIC] == pytest.approx(ended['val'][METRIC])
    assert found.log is not None and 'Epoch(val) [2]' in found.log.read_text()
    assert other_logs('toys', [found]) == [run_folder('toys', 'large', '', 2) / 'run.log']


def test_find_files_line_of_another_machine_does_not_own_the_folder() -> None:
    write_run(line('plain', 2, 60.0))
    (found,) = find_files('toys', [RUN])
    assert (found.missing, found.log, found.scalars) == (OTHER_RUN, None, None)


def test_find_files_failed_attempt_after_the_run_leaves_the_runs_own_log() -> None:
    folder = write_run(RUN, OLD, 'of the run')
    (folder / NEW / 'vis_data').mkdir(parents=True)
    (folder / 'run.log').write_text('of the failed attempt')
    files = find_files('toys', [RUN])
    assert files[0].log == folder / OLD / f'{OLD}.log'
    assert files[0].missing == ''
    assert other_logs('toys', files) == [folder / 'run.log']


@pytest.mark.parametrize('second', [70.0, 75.0])
def test_find_files_attempts_belong_to_the_lines_in_their_order(second: float) -> None:
    lines = [RUN, line('plain', 2, second, config_sha256='changed')]
    write_run(lines[0], OLD)
    folder = write_run(lines[1], NEW)
    files = find_files('toys', lines)
    assert [each.log for each in files] == [folder / OLD / f'{OLD}.log', folder / 'run.log']


def test_find_files_without_validation_belongs_to_the_newest_line() -> None:
    trained = {key: value for key, value in RUN.items() if key != 'val'}
    folder = write_run(RUN)
    old, new = find_files('toys', [trained, {**trained, 'config_sha256': 'changed'}])
    assert (old.missing, new.log) == (OTHER_RUN, folder / 'run.log')


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


@pytest.mark.parametrize(
    ('change', 'missing', 'has_log'),
    [
        (remove('run.log'), NO_LOG, False),
        (remove(f'{OLD}/vis_data/scalars.json'), NO_CURVES, True),
        (remove('run.log', f'{OLD}/vis_data/scalars.json'), NO_CURVES, False),
        (lambda folder: folder.rename(folder.with_name('elsewhere')), NO_FOLDER, False),
    ],
)
def test_find_files_lost_file_is_reported(change: Any, missing: str, has_log: bool) -> None:
    change(write_run(RUN))
    (found,) = find_files('toys', [RUN])
    assert (found.missing, found.log is not None) == (missing, has_log)


def test_other_logs_have_those_of_preparations() -> None:
    study_folder('toys').mkdir(parents=True)
    log = study_folder('toys') / 'prepare teacher.log'
    log.touch()
    assert other_logs('toys', []) == [log]
