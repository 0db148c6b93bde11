import shutil
from pathlib import Path

import pytest
from experiments.model_zoo.index import Zoo
from helpers.toy_zoo import make_zoo

pytest.importorskip('mmpretrain')


@pytest.fixture(scope='session')
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('template')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make_zoo(root)
    return root


@pytest.fixture
def zoo(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A zoo of one plain network and one student, in a root of its own."""
    shutil.copytree(template, tmp_path / 'root')
    monkeypatch.chdir(tmp_path / 'root')
    return Zoo(Path('configs/model_zoo'))
