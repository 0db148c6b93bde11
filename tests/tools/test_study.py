"""tools/study.py: a study is named or given by its path, and the report is that of docs/."""

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    def run(*arguments: object) -> object:
        monkeypatch.setattr(sys, 'argv', ['study.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'tools/study.py'), run_name='__main__')
        return ended.value.code

    return run


@pytest.mark.parametrize(
    'study', ['mutual_detection', ROOT / 'tools/experiments/studies/mutual_detection.py']
)
def test_study_run_takes_a_name_or_a_path(
    run: Callable[..., object], study: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run('run', study, '--dry-run') == 0
    assert 'report: 0 of 10 trainings are missing' in capsys.readouterr().out


def test_study_run_unknown_name_lists_the_studies(run: Callable[..., object]) -> None:
    error = str(run('run', 'detecton', '--dry-run'))
    assert error.startswith('study: ') and "found 'detecton'" in error
    assert 'detection, inherit_explore' in error and '_networks' not in error


@pytest.mark.slow
def test_study_report_is_the_page_of_the_docs(
    run: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / 'docs/results', tmp_path / 'results')
    assert run('report', '--results', tmp_path / 'results') == 0
    assert (tmp_path / 'results.md').read_text() == (ROOT / 'docs/results.md').read_text()
    printed = capsys.readouterr().out
    assert 'detection: arm mean has no results' in printed
    assert f'-> {tmp_path}/results.md' in printed
