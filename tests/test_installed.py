import subprocess
import sys

import pytest

from mmkd_plugin import installed

EVERYTHING = {'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet'}


def only(monkeypatch: pytest.MonkeyPatch, packages: set[str]) -> None:
    """Let the module find these packages alone."""
    monkeypatch.setattr(installed, 'find_spec', lambda name: object() if name in packages else None)


def missing(monkeypatch: pytest.MonkeyPatch, packages: set[str]) -> list[str]:
    """Return the lines of the error if these packages alone are installed, without the last."""
    only(monkeypatch, packages)
    with pytest.raises(ImportError) as error:
        installed.require_hosts()
    *lines, last = str(error.value).splitlines()
    assert last == installed.CLONE
    return lines


def test_has_imports_nothing() -> None:
    assert installed.has('torch')
    assert not installed.has('no_such_package')
    assert installed.has('this')
    assert 'this' not in sys.modules


@pytest.mark.parametrize('host', ['mmpretrain', 'mmdet'])
def test_require_hosts_one_host_is_enough(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    only(monkeypatch, {'torch', 'mmengine', 'mmcv', host})
    installed.require_hosts()


def test_require_hosts_without_host_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(monkeypatch, EVERYTHING - {'mmpretrain', 'mmdet'}) == [
        'mmkd_plugin needs mmpretrain or mmdet; neither is installed. '
        "Run: `pip install 'mmpretrain>=1.2'` for classifiers "
        "or `pip install 'mmdet>=3.3'` for detectors"
    ]


@pytest.mark.parametrize(
    ('package', 'command'),
    [
        ('torch', "`pip install 'torch>=2.6' torchvision`"),
        ('mmengine', "`pip install 'mmengine>=0.10.7' 'setuptools<81'`"),
        ('mmcv', "`pip install 'mmcv-lite>=2.0,<2.2'`"),
    ],
)
def test_require_hosts_missing_package_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, package: str, command: str
) -> None:
    [line] = missing(monkeypatch, EVERYTHING - {package})
    assert line.startswith(f'mmkd_plugin needs {package}, which is not installed. Run: {command}')


def test_require_hosts_empty_environment_lists_all(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = [line.split()[2].rstrip(',') for line in missing(monkeypatch, set())]
    assert needs == ['torch', 'mmengine', 'mmcv', 'mmpretrain']


@pytest.mark.parametrize(
    ('version', 'fits'),
    [('2.5.1', False), ('1.13.1+cu117', False), ('2.6.0', True), ('2.10.0a0', True)],
)
def test_require_hosts_torch_that_runs_code_of_a_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    monkeypatch.setattr('torch.__version__', version)
    if fits:
        installed.require_hosts()
    else:
        found = '.'.join(version.split('.')[:2])
        with pytest.raises(
            ImportError, match=rf'needs torch 2.6 or newer \(found {found}\)\. Run: '
        ):
            installed.require_hosts()


@pytest.mark.parametrize(
    ('absent', 'line'),
    [
        (['mmpretrain'], ''),
        (['mmdet'], ''),
        (['mmpretrain', 'mmdet'], 'needs mmpretrain or mmdet; neither is installed'),
        (
            ['numpy', 'torch', 'mmengine', 'mmcv', 'mmdet'],
            'mmkd_plugin needs mmengine, which is not installed',
        ),
    ],
)
def test_import_checks_before_it_imports_anything_else(absent: list[str], line: str) -> None:
    script = f'import sys; sys.modules.update(dict.fromkeys({absent})); import mmkd_plugin'
    run = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False
    )
    assert run.returncode == bool(line), run.stderr
    assert line in run.stderr
