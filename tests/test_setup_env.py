"""The set-up of the environment: refusals in one line before any download, and its progress."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / 'machine')


@pytest.mark.parametrize('profile', ['lint', 'demo', 'test'])
def test_setup_without_python_is_refused(machine: Machine, profile: str) -> None:
    (machine.path / 'python3.11').unlink()
    assert machine.refusal(profile).startswith('setup: needs Python 3.11, found none: install it')


def test_setup_older_python_is_refused(machine: Machine) -> None:
    (machine.path / 'python3.11').unlink()
    machine.add('python3', '[ "$1" = -V ] && echo Python 3.9.2')
    assert machine.refusal('demo').startswith('setup: needs Python 3.11, found Python 3.9.2: ')


def test_setup_older_python_by_name_is_refused(machine: Machine) -> None:
    machine.add('python3.9', '[ "$1" = -V ] && echo Python 3.9.2')
    assert (
        machine.refusal('demo', PYTHON='python3.9')
        == 'setup: needs Python 3.11, but PYTHON=python3.9 is Python 3.9.2'
    )


def test_setup_python_without_venv_is_refused(machine: Machine) -> None:
    machine.add(
        'python3.11', f'case "$*" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"'
    )
    assert 'python3.11 has no venv module: install it' in machine.refusal('demo')


def test_setup_without_compiler_is_refused(machine: Machine) -> None:
    (machine.path / 'g++').unlink()
    assert 'there is no C++ compiler (g++): install one' in machine.refusal('test')


def test_setup_old_compiler_is_refused(machine: Machine) -> None:
    machine.add('g++', 'exit 1')
    assert 'g++ cannot compile C++17' in machine.refusal('test')


def test_setup_small_disk_is_refused(machine: Machine) -> None:
    machine.add('df', f'echo; echo /dev/disk 1 1 {5 * 1024**2} 1% /')
    assert machine.refusal('demo').startswith('setup: needs 14 GiB free in this folder (')
    assert machine.refusal('demo').endswith('found 5 GiB')


def test_setup_demo_without_cuda_needs_less_disk_and_no_compiler(machine: Machine) -> None:
    # Every check passes, so it comes to its first step. There this machine's Python fails.
    machine.add('df', f'echo; echo /dev/disk 1 1 {5 * 1024**2} 1% /')
    machine.add('python3.11', f'[ "$1 $2" = "-m venv" ] && exit 7; exec {sys.executable} "$@"')
    (machine.path / 'g++').unlink()
    index = 'https://example.org/cpu'
    done = machine.run('bash', 'tools/setup_env.sh', 'demo', TORCH_INDEX=index)
    assert done.returncode == 7
    assert done.stdout.startswith('setup [1/4]: the environment .venv')
    assert done.stderr.startswith('setup: stopped before the end; the same command continues')


def test_setup_prints_a_line_a_minute_while_a_step_runs(machine: Machine) -> None:
    """A 'minute' is 10 ms here, and pip ends only when the second line has come."""
    pipe = machine.folder / 'pipe'
    os.mkfifo(pipe)
    beat = (
        'setup [2/2]: 0 min, usually seconds; in all 0 min, usually seconds: ruff and codespell\n'
    )
    lines = []
    with subprocess.Popen(
        [machine.path / 'bash', 'tools/setup_env.sh', 'lint'],
        cwd=machine.clone,
        env={
            'PATH': str(machine.path),
            'SETUP_BEAT_SECONDS': '0.01',
            'FAKE_PIP_WAITS_FOR': str(pipe),
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as setup:
        assert setup.stdout is not None
        for line in setup.stdout:
            lines.append(line)
            if lines.count(beat) == 2 and line == beat:
                pipe.write_text('go on')
    assert setup.returncode == 0
    assert lines.index('setup [2/2]: ruff and codespell (usually seconds)\n') < lines.index(beat)
    assert lines[-1].startswith('setup: .venv is ready after '), 'nothing is printed after the end'
