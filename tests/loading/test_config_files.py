"""Config files: found in packages, read once, refused in one line."""

import gc
from pathlib import Path
from typing import Any

import pytest
from helpers.errors import ANY, raises_config_error
from mmengine.config import Config
from mmengine.hub import get_config

from mmkd_plugin.loading.config_files import read_config, reading_once

STOCK = [
    'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    'mmdet::_base_/models/retinanet_r50_fpn.py',
]


@pytest.mark.parametrize('path', STOCK)
def test_config_of_a_package_is_that_of_the_hub(path: str) -> None:
    assert read_config(path, 'student').to_dict() == get_config(path).to_dict()


def test_file_is_read_once_inside_and_anew_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'a.py'
    path.write_text('model = dict(depth=18)\n')
    calls: list[str] = []
    read = Config.fromfile

    def counted(name: Any) -> Config:
        calls.append(str(name))
        return read(name)

    monkeypatch.setattr(Config, 'fromfile', counted)
    with reading_once():
        first = read_config(str(path), 'student')
        first.model.depth = 50
        path.write_text('model = dict(depth=34)\n')
        assert read_config(str(path), 'teacher').model.depth == 18
        assert len(calls) == 1
    assert read_config(str(path), 'student').model.depth == 34
    assert len(calls) == 2


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize(
    ('name', 'text', 'words'),
    [
        ('a.pth', '', ('.py', 'its config, then its checkpoint')),
        ('a.py', 'model = dict(', ('SyntaxError',)),
        ('a.py', 'model = undefined', ('NameError', 'undefined')),
        ('a.py', "custom_imports = dict(imports=['no_such_module'])", ('no_such_module',)),
        ('a.py', "_base_ = 'nowhere.py'", ('not there', 'nowhere.py')),
    ],
)
def test_file_that_is_no_config_is_one_error(
    name: str, text: str, words: Any, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with raises_config_error('student', str(path), *words):
        read_config(str(path), 'student')
    gc.collect()  # MMEngine leaves its copy of the file open


def test_missing_file_names_the_folder() -> None:
    with raises_config_error('student', 'nowhere.py', str(Path.cwd())):
        read_config('nowhere.py', 'student')
    with raises_config_error('student', ANY, 'resnet/resnet18_8xb16_cifar10.py'):
        read_config('mmpretrain::resnet/resnet18_cifar10.py', 'student')
