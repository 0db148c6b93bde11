"""tools/study.py: a study is named or given by its path, and the report is that of docs/."""

import importlib.util
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


@pytest.mark.slow
def test_study_report_html_of_a_fresh_clone_goes_to_the_folder_of_the_runs(
    run: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (ROOT / 'docs/results.md').read_bytes()
    assert run('report', 'mutual_detection', '--html') == 0
    page = tmp_path / 'work_dirs/studies/mutual_detection/report.html'
    assert f'-> {page}' in capsys.readouterr().out
    assert 'study.py run mutual_detection --results work_dirs/results' in page.read_text()
    assert (ROOT / 'docs/results.md').read_bytes() == before


@pytest.mark.parametrize(
    ('arguments', 'error'),
    [
        (('--html', 'detection'), "(found 'detection'). Write: report detection --html"),
        (('--html', 'all.html'), "(found 'all.html'). Name a folder, or one study."),
        (('detecton', '--html'), "(found 'detecton'). Studies: "),
    ],
)
def test_study_report_html_wrong_path_is_one_line(
    run: Callable[..., object], arguments: tuple[str, ...], error: str
) -> None:
    assert error in str(run('report', *arguments))


def test_study_report_html_without_its_packages_names_the_extra(
    run: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        'mmkd_plugin.installed.find_spec', lambda name: None if name == 'plotly' else find(name)
    )
    error = str(run('report', 'detection', '--html'))
    assert error.startswith('--html: needs plotly, ')
    assert "pip install -c constraints.txt -e '.[report]'" in error
