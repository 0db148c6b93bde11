import subprocess
import sys

import pytest

from mmkd_plugin import installed

CLASSIFICATION = r"pip install 'mmkd_plugin\[classification\]'"
EVERYTHING = {'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet'}


def only(monkeypatch: pytest.MonkeyPatch, packages: set[str]) -> None:
    """Let the module find these packages alone."""
    monkeypatch.setattr(installed, 'find_spec', lambda name: object() if name in packages else None)


def test_has_tells_and_imports_nothing() -> None:
    assert installed.has('torch')
    assert not installed.has('no_such_package')
    assert installed.has('this')
    assert 'this' not in sys.modules


@pytest.mark.parametrize('host', ['mmpretrain', 'mmdet'])
def test_one_of_the_two_hosts_is_enough(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    only(monkeypatch, {'torch', 'mmengine', 'mmcv', host})
    installed.require_hosts()


def test_no_host_at_all_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, EVERYTHING - {'mmpretrain', 'mmdet'})
    with pytest.raises(
        ImportError, match=rf'needs mmpretrain or mmdet.*{CLASSIFICATION} or .*\[detection\]'
    ):
        installed.require_hosts()


@pytest.mark.parametrize(
    ('missing', 'remedy'),
    [
        ('torch', CLASSIFICATION),
        ('mmengine', CLASSIFICATION),
        ('mmcv', r"pip install 'mmcv-lite>=2\.0,<2\.2'"),
    ],
)
def test_each_missing_package_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, missing: str, remedy: str
) -> None:
    only(monkeypatch, EVERYTHING - {missing})
    with pytest.raises(
        ImportError, match=rf'^mmkd_plugin needs {missing}, which is not installed: {remedy}'
    ) as error:
        installed.require_hosts()
    assert len(str(error.value).splitlines()) == 1


def test_an_empty_environment_is_told_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, set())
    with pytest.raises(ImportError) as error:
        installed.require_hosts()
    needs = [line.split()[2].rstrip(',') for line in str(error.value).splitlines()]
    assert needs == ['torch', 'mmengine', 'mmcv', 'mmpretrain']


@pytest.mark.parametrize(
    ('version', 'fits'),
    [('2.5.1', False), ('1.13.1+cu117', False), ('2.6.0', True), ('2.10.0a0', True)],
)
def test_torch_that_runs_what_a_checkpoint_says_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    monkeypatch.setattr('torch.__version__', version)
    if fits:
        installed.require_hosts()
    else:
        found = '.'.join(version.split('.')[:2])
        with pytest.raises(ImportError, match=f'needs torch 2.6 or newer, found {found}:'):
            installed.require_hosts()


@pytest.mark.parametrize(
    ('absent', 'line'),
    [
        (['mmpretrain'], ''),
        (['mmdet'], ''),
        (['mmpretrain', 'mmdet'], 'needs mmpretrain or mmdet, and neither is installed'),
        (
            ['numpy', 'torch', 'mmengine', 'mmcv', 'mmdet'],
            'mmkd_plugin needs mmengine, which is not installed',
        ),
    ],
)
def test_the_package_checks_before_it_imports_anything_else(absent: list[str], line: str) -> None:
    script = f'import sys; sys.modules.update(dict.fromkeys({absent})); import mmkd_plugin'
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False
    )
    assert run.returncode == bool(line), run.stderr
    assert line in run.stderr
