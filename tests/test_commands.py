"""Every command that a page, a docstring or a message gives is true: it works in a clone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import ROOT, commands_in, problem

PAGES = sorted(
    {
        *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'constraints.txt', 'Makefile')),
        *(ROOT / 'docs').rglob('*.md'),
        *(ROOT / 'configs').rglob('*.md'),
    }
)
CODE = sorted(
    path
    for folder in ('mmkd_plugin', 'tools')
    for path in (ROOT / folder).rglob('*.py')
    if '.mim' not in path.parts
)


def texts_of(path: Path) -> Iterator[str]:
    """Yield the text of a page, or the docstrings and messages of a module."""
    text = path.read_text()
    if path.suffix != '.py':
        yield re.sub(r'^#+ ?', '', text, flags=re.M) if path.suffix in ('', '.txt') else text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
            if '`' not in node.value:
                yield from (f'`{found}`' for found in re.findall(r'Run: (.+)$', node.value))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize('path', [*PAGES, *CODE], ids=relative)
def test_commands_of_a_file_work_as_written(path: Path) -> None:
    commands = {command for text in texts_of(path) for command in commands_in(text)}
    problems = {command: found for command in commands if (found := problem(command))}
    assert problems == {}


def test_commands_are_found_where_they_are() -> None:
    """The control: a search that finds nothing would find no mistake either."""
    found = {path.name: sum(len(list(commands_in(text))) for text in texts_of(path)) for path in
             (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'mmkd_plugin/installed.py',
              ROOT / 'tools/train.py')}  # fmt: skip
    assert all(found.values()), found


def test_commands_in_reads_blocks_lines_and_inline_code() -> None:
    text = """
Run `make demo`, or `FOO=1 pip install
a` or `no command`.

    python tools/train.py A  # why

```bash
table=configs/demo
python tools/train.py \\
    $table/a.py && make test
```
"""
    assert sorted(commands_in(text)) == [
        'FOO=1 pip install a',
        'make demo',
        'make test',
        'python tools/train.py A',
        'python tools/train.py configs/demo/a.py',
    ]


@pytest.mark.parametrize(
    ('command', 'words'),
    [
        ("pip install 'mmkd_plugin[classification]'", 'no index has'),
        ('pip install mmkd-plugin', 'no index has'),
        ("pip install -e '.[nothing]'", 'no extra nothing'),
        ('pip install -c nothing.txt torch', 'nothing.txt is no file'),
        ("pip install 'torch=>2'", 'torch=>2'),
        ('pip install --nothing torch', '--nothing'),
        ('make nothing', 'no target nothing'),
        ('make demo NOTHING=1', 'no variable NOTHING'),
        ('python tools/nothing.py', 'is no file'),
        ('bash tools/nothing.sh', 'is no file'),
        ('tools/train.py CONFIG --nothing', 'no option --nothing'),
        ('python tools/study.py walk detection', 'no command walk'),
        ('python tools/study.py report --dry-run', 'no option --dry-run'),
        ('python tools/study.py run detecton', 'is neither a file nor a study'),
        ('python tools/train.py configs/nothing.py', 'configs/nothing.py does not exist'),
        ('.venv/bin/python -m pytest tests/nothing.py', 'tests/nothing.py does not exist'),
        ('mim nothing', 'no command'),
    ],
)
def test_problem_wrong_command_is_found(command: str, words: str) -> None:
    assert words in problem(command)


@pytest.mark.parametrize(
    'command',
    [
        "pip install -c constraints.txt -e '.[classification]'",
        "MMCV_WITH_OPS=1 pip install --no-build-isolation 'mmcv>=2.0,<2.2'",
        'make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu',
        'python tools/study.py run detection --dry-run',
        'python tools/train.py configs/demo/dml.py --amp',
        'bash tools/dist_train.sh CONFIG 8',
        '.venv/bin/python -m pytest tests/test_commands.py',
        'python tools/benchmark.py angle --threads 4',
    ],
)
def test_problem_right_command_has_none(command: str) -> None:
    assert problem(command) == ''
