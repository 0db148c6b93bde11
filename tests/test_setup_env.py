"""What the set-up refuses, and that it does so in one line, before it makes or downloads anything."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ('bash', 'awk', 'df', 'dirname', 'getconf', 'grep', 'head', 'mkdir', 'rm', 'sed', 'touch')


class Machine:
    """A clone on a bare machine: PATH holds the few standard tools, and what a test adds."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.path = folder / 'clone', folder / 'bin'
        (self.clone / 'tools').mkdir(parents=True)
        self.path.mkdir()
        shutil.copy(ROOT / 'constraints.txt', self.clone)
        shutil.copy(ROOT / 'tools/setup_env.sh', self.clone / 'tools')
        for tool in TOOLS:
            (self.path / tool).symlink_to(str(shutil.which(tool)))
        self.add('df', 'echo; echo /dev/disk 1 1 99999999 1% /')
        self.add('g++', 'exit 0')

    def add(self, name: str, script: str) -> None:
        """Put a command into PATH."""
        (self.path / name).unlink(missing_ok=True)
        (self.path / name).write_text(f'#!{self.path}/bash\n{script}\n')
        (self.path / name).chmod(0o755)

    def refusal(self, profile: str, **environment: str) -> str:
        """The one line with which the set-up ends."""
        run = subprocess.run(
            [self.path / 'bash', self.clone / 'tools/setup_env.sh', profile],
            env={'PATH': str(self.path), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert run.stdout == ''
        assert not (self.clone / '.venv').exists()
        [line] = run.stderr.splitlines()
        return line


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.add('python3.11', f'exec {sys.executable} "$@"')
    return machine


@pytest.mark.parametrize('profile', ['lint', 'demo', 'test'])
def test_no_python(machine: Machine, profile: str) -> None:
    (machine.path / 'python3.11').unlink()
    assert machine.refusal(profile).startswith('setup: needs Python 3.11, found none: install it')


def test_another_python(machine: Machine) -> None:
    (machine.path / 'python3.11').unlink()
    machine.add('python3', '[ "$1" = -V ] && echo Python 3.9.2')
    assert machine.refusal('demo').startswith('setup: needs Python 3.11, found Python 3.9.2: ')


def test_another_python_that_was_asked_for(machine: Machine) -> None:
    machine.add('python3.9', '[ "$1" = -V ] && echo Python 3.9.2')
    assert (
        machine.refusal('demo', PYTHON='python3.9')
        == 'setup: needs Python 3.11, but PYTHON=python3.9 is Python 3.9.2'
    )


def test_python_without_venv(machine: Machine) -> None:
    machine.add(
        'python3.11', f'case "$*" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"'
    )
    assert 'python3.11 has no venv module: install it' in machine.refusal('demo')


def test_no_compiler(machine: Machine) -> None:
    (machine.path / 'g++').unlink()
    assert 'there is no C++ compiler (g++): install one' in machine.refusal('test')


def test_a_compiler_of_the_past(machine: Machine) -> None:
    machine.add('g++', 'exit 1')
    assert 'g++ cannot compile C++17' in machine.refusal('test')


def test_too_little_disk(machine: Machine) -> None:
    machine.add('df', f'echo; echo /dev/disk 1 1 {5 * 1024**2} 1% /')
    assert machine.refusal('demo').startswith('setup: needs 14 GiB free in this folder (')
    assert machine.refusal('demo').endswith('found 5 GiB')


def test_torch_without_cuda_needs_less_disk_and_the_demo_no_compiler(machine: Machine) -> None:
    # All is well, so that it comes to its first step, and that is where this machine fails: its Python makes no venv.
    machine.add('df', f'echo; echo /dev/disk 1 1 {5 * 1024**2} 1% /')
    machine.add('python3.11', f'[ "$1 $2" = "-m venv" ] && exit 7; exec {sys.executable} "$@"')
    (machine.path / 'g++').unlink()
    run = subprocess.run(
        [machine.path / 'bash', machine.clone / 'tools/setup_env.sh', 'demo'],
        env={'PATH': str(machine.path), 'TORCH_INDEX': 'https://example.org/cpu'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 7
    assert run.stdout.startswith('setup [1/4]: the environment .venv')
    assert run.stderr == 'setup: stopped before the end; the same command goes on from here\n'
