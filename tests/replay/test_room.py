"""The room depends on nothing above it."""

import ast
from pathlib import Path

import pytest

import mmkd_plugin.replay

FILES = sorted(Path(mmkd_plugin.replay.__file__).parent.glob('*.py'))
BELOW = ('boxes', 'errors', 'installed', 'outputs', 'registry', 'replay')


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_file_imports_what_is_below_the_room_and_no_host(file: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    own = {name.split('.')[1] for name in names if name.startswith('mmkd_plugin.')}
    assert own <= {*BELOW}
    assert not {name.split('.')[0] for name in names} & {'mmdet', 'mmpretrain', 'pickle'}
