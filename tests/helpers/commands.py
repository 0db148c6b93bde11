"""Shell commands in texts, and what is wrong with them: they must work as written in a clone."""

import io
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from unittest import mock

from experiments.study.load import find_study
from packaging.requirements import InvalidRequirement, Requirement

from mmkd_plugin.errors import ConfigError

ROOT = Path(__file__).parents[2]
STARTS = ('pip', 'make', 'mim', 'python', 'bash', '.venv/bin/python', 'tools/')
FENCE = re.compile(r'^ *```(?:bash|sh|console|text)?\n(.*?)^ *```', re.M | re.S)
ASSIGNMENT = re.compile(r'([A-Za-z_]\w*)=(\S*)')
PIP_VALUES = ('-c', '-r', '--constraint', '--requirement', '--index-url')
PIP_FLAGS = ('-e', '-U', '--no-deps', '--no-build-isolation', '--editable', '--upgrade')


def commands_in(text: str) -> Iterator[str]:
    """Yield the commands of Markdown, of a docstring or of a message.

    They are the lines of code blocks, indented lines, and inline code between backticks. Comments
    are left out, continued lines are joined, and variables set in a block are filled in.
    """
    blocks = FENCE.findall(text)
    rest = re.sub(r'^ *```.*?^ *```', '', text, flags=re.M | re.S)
    blocks.append('\n'.join(re.findall(r'^ {4}(\S.*)$', rest, re.M)))
    for block in blocks:
        variables: dict[str, str] = {}
        for line in block.replace('\\\n', ' ').splitlines():
            if assigned := ASSIGNMENT.fullmatch(line.strip()):
                variables[assigned[1]] = assigned[2]
            for name, value in variables.items():
                line = re.sub(rf'\$\{{?{name}\b\}}?', value, line)
            yield from _single(line)
    for inline in re.findall(r'`([^`]+)`', rest):
        yield from _single(' '.join(inline.split()))


def _single(line: str) -> Iterator[str]:
    """Yield the commands of a line that begin as one of ``STARTS``."""
    line = re.sub(r'(^|\s)#.*', '', line)
    for part in re.split(r'&&|\|\||[|;]', line):
        command = re.sub(r'^\s*(?:\$ )?((?:[A-Z_]+=\S* )*)', r'\1', part).strip()
        if re.sub(r'^(?:[A-Z_]+=\S* )*', '', command).startswith(STARTS):
            yield ' '.join(command.split())


def problem(command: str) -> str:
    """Return what is wrong with a command; an empty string if nothing is."""
    words = [word for word in shlex.split(command) if word != '…']
    while words and ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    program, *arguments = words
    if program in ('python', '.venv/bin/python') and arguments[:2] == ['-m', 'pip']:
        program, arguments = 'pip', arguments[2:]
    if program == 'pip':
        return _pip(arguments)
    if program == 'make':
        return _make(arguments)
    if program == 'mim':
        known = ('install', 'uninstall', 'list', 'search', 'download', 'train', 'test', 'run')
        return '' if arguments and arguments[0] in known else f'mim has no command {arguments[:1]}'
    if program in ('python', '.venv/bin/python', 'bash'):
        while arguments and arguments[0] == '-W':
            del arguments[:2]
        if arguments[:1] == ['-m']:
            return _missing_paths(arguments[2:])
        if not arguments or arguments[0].startswith('-'):
            return ''
        program, *arguments = arguments
    if not program.endswith(('.py', '.sh')):
        return ''
    return _script(program, arguments)


def _pip(arguments: list[str]) -> str:
    if not arguments:
        return ''
    if arguments[0] != 'install':
        return (
            '' if arguments[0] in ('uninstall', 'list', 'show', 'cache') else 'unknown pip command'
        )
    rest = iter(arguments[1:])
    for word in rest:
        if word in PIP_VALUES:
            value = next(rest, '')
            if not value.startswith('http') and not (ROOT / value).is_file():
                return f'{value} is no file'
        elif word.startswith('-'):
            if word not in PIP_FLAGS:
                return f'unknown option {word}'
        elif found := re.fullmatch(r'\.(?:\[(.+)\])?', word):
            extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
            for extra in (found[1] or '').split(','):
                if extra and extra not in extras['optional-dependencies']:
                    return f'there is no extra {extra}'
        elif not word.startswith('git+https://'):
            try:
                name = Requirement(word).name
            except InvalidRequirement as error:
                return f'{word}: {error}'
            if name.replace('-', '_') == 'mmkd_plugin':
                return 'no index has mmkd_plugin'
    return ''


def _make(arguments: list[str]) -> str:
    makefile = (ROOT / 'Makefile').read_text()
    for word in arguments:
        if assigned := ASSIGNMENT.fullmatch(word):
            if not re.search(rf'^{assigned[1]} \?=', makefile, re.M):
                return f'make knows no variable {assigned[1]}'
        elif not re.search(rf'^{re.escape(word)}:', makefile, re.M):
            return f'make has no target {word}'
    return ''


def _script(script: str, arguments: list[str]) -> str:
    path = ROOT / script
    if not path.is_file():
        return f'{script} is no file'
    if script.endswith('.py'):
        text = help_of(path)
        if (commands := re.search(r'\{([\w,]+)\} \.\.\.', text)) and arguments:
            if arguments[0] not in commands[1].split(','):
                return f'{script} has no command {arguments[0]}'
            command = arguments.pop(0)
            text = help_of(path, command)
            if script == 'tools/study.py' and re.match('[a-z]', ' '.join(arguments)):
                try:
                    find_study(arguments[0])
                except ConfigError as error:
                    return str(error)
        options = set(re.findall(r'(?<![\w-])--?[\w-]+', text))
        for word in arguments:
            if re.fullmatch(r'--?[a-zA-Z][\w-]*', word) and word not in options:
                return f'{script} has no option {word}'
    return _missing_paths(arguments)


def _missing_paths(arguments: list[str]) -> str:
    from mmengine.hub import get_config

    for word in arguments:
        if word.startswith(('configs/', 'tests/', 'tools/')):
            if not list(ROOT.glob(word)):
                return f'{word} does not exist'
        elif '::' in word:
            get_config(word)
    return ''


@cache
def help_of(path: Path, *command: str) -> str:
    """Return what ``--help`` prints, without a process of its own."""
    printed = io.StringIO()
    # With this option tools/benchmark.py does not start anew.
    first = ['--system-allocator'] if path.name == 'benchmark.py' else []
    arguments = [str(path), *first, *command, '--help']
    with (
        mock.patch.object(sys, 'argv', arguments),
        redirect_stdout(printed),
        suppress(SystemExit),
    ):
        runpy.run_path(str(path), run_name='__main__')
    return printed.getvalue()
