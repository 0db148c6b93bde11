"""A clone on a bare machine: PATH holds the few standard tools, and what a test adds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = (
    *('awk', 'bash', 'cp', 'df', 'dirname', 'find', 'getconf', 'grep', 'head', 'make', 'mkdir'),
    *('rm', 'sed', 'touch', 'xargs'),
)
#: Their real ones need real packages.
SCRIPTS = {
    'tools/demo.py': 'import mmkd_plugin, mmpretrain, matplotlib, mlxtend, sklearn',
    'tools/compatibility.py': 'import mmkd_plugin, mmdet; from mmcv.ops import nms',
    'tools/demo_det.py': 'import mmkd_plugin, mmdet, mlxtend; from mmcv.ops import nms',
    'tools/check_words.py': '',
}


class Machine:
    """Its Python is real, its virtual environments are too, and pip is ``helpers.fake_pip``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone, self.path = folder, folder / 'clone', folder / 'bin'
        self.path.mkdir(parents=True)
        for name in ('Makefile', 'constraints.txt', 'pyproject.toml', 'setup.py', '.ci/run'):
            self._copy(name)
        for script in (ROOT / 'tools').glob('*.sh'):
            self._copy(f'tools/{script.name}')
        for name, code in SCRIPTS.items():
            ran = f'import sys; print("{Path(name).name} ran", *sys.argv[1:])'
            (self.clone / name).write_text(f'{code}\n{ran}\n')
        for tool in TOOLS:
            (self.path / tool).symlink_to(str(shutil.which(tool)))
        self.add('df', 'echo; echo /dev/disk 1 1 99999999 1% /')
        self.add('g++', 'while read -r; do :; done')
        pip = Path(__file__).with_name('fake_pip.py')
        self.add(
            'python3.11',
            f'[ "$1 $2" = "-m venv" ] || exec {sys.executable} "$@"\n'
            f'{sys.executable} -m venv --without-pip "$3"\n'
            'mkdir "$3"/lib/python3.11/site-packages/pip\n'
            f'cp {pip} "$3"/lib/python3.11/site-packages/pip/__main__.py\n',
        )

    def _copy(self, name: str) -> None:
        (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, self.clone / name)

    def add(self, name: str, script: str) -> None:
        """Put a command into PATH."""
        (self.path / name).unlink(missing_ok=True)
        (self.path / name).write_text(f'#!{self.path}/bash\n{script}\n')
        (self.path / name).chmod(0o755)

    def copy(self, folder: Path) -> 'Machine':
        """Return a copy of the machine as it is now, times of files included."""
        shutil.copytree(self.folder, folder, symlinks=True)
        copy = object.__new__(Machine)
        copy.folder, copy.clone, copy.path = folder, folder / 'clone', folder / 'bin'
        return copy

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone."""
        return subprocess.run(
            [self.path / command[0], *command[1:]],
            cwd=self.clone,
            env={'PATH': str(self.path), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def make(self, *targets: str, **environment: str) -> str:
        """Make targets, which must succeed, and return the output."""
        done = self.run('make', *targets, **environment)
        assert done.returncode == 0, f'make {targets}:\n{done.stdout}{done.stderr}'
        return done.stdout

    def refusal(self, profile: str, **environment: str) -> str:
        """Return the one line with which the set-up ends before its first step."""
        done = self.run('bash', 'tools/setup_env.sh', profile, **environment)
        assert (done.returncode, done.stdout) == (1, '')
        assert not (self.clone / '.venv').exists()
        [line] = done.stderr.splitlines()
        return line

    @property
    def pip_log(self) -> list[str]:
        """The calls of pip."""
        log = self.clone / 'pip.log'
        return log.read_text().splitlines() if log.exists() else []

    def outdate(self) -> None:
        """Make all stamps older than the files that list the packages."""
        for stamp in (self.clone / '.venv').glob('*.ready'):
            os.utime(stamp, (0, 0))
