"""Stands for pip in a virtual environment of its own: it 'installs' empty modules with metadata.

``helpers.machine`` copies this file to ``site-packages/pip/__main__.py``. Everything else is real:
the interpreter, the virtual environment, and what importlib.metadata reads from it. Every call is a
line of ``pip.log`` in the current folder.
"""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

SITE = Path(__file__).parents[1]
LOG = Path('pip.log')
MODULES = {
    'codespell': 'codespell_lib',
    'mmcv-lite': 'mmcv',
    'opencv-python': 'cv2',
    'opencv-python-headless': 'cv2',
    'pytest-cov': 'pytest_cov',
    'pytest-xdist': 'xdist',
    'scikit-learn': 'sklearn',
    'types-PyYAML': 'types_yaml',
}
NEEDS = {'mmengine': ['opencv-python']}
CODE = {
    'torch': 'def tensor(*_): ...\ndef ones(*_): ...\n',
    'mmkd_plugin': 'import torch, mmengine, mmcv\n',
    'pytest': 'import xdist\n',
}
OPTIONS = ('-c', '-w', '--index-url')  # those with a value


def pin(name: str) -> str:
    """Return the version of the constraints; 0 for this project."""
    found = re.search(rf'^{re.escape(name)}==(.+)$', Path('constraints.txt').read_text(), re.M)
    return found[1] if found else '0'


def metadata_of(name: str) -> Path:
    return SITE / f'{name.replace("-", "_")}-{pin(name)}.dist-info'


def extra(name: str) -> list[str]:
    """Return the packages of an extra, with those of the extras that it names."""
    project = tomllib.loads(Path('pyproject.toml').read_text())['project']
    names = []
    for requirement in project['optional-dependencies'][name]:
        if inner := re.fullmatch(r'mmkd_plugin\[(.+)\]', requirement):
            names += [package for part in inner[1].split(',') for package in extra(part)]
        else:
            names.append(re.split(r'[<>=]', requirement)[0])
    return names


def install(name: str) -> None:
    module = SITE / MODULES.get(name, name.replace('-', '_'))
    module.mkdir(exist_ok=True)
    (module / '__init__.py').write_text(CODE.get(name, ''))
    (module / '__main__.py').write_text(f'import sys\nprint("{name} ran", *sys.argv[1:])\n')
    if name == 'mmcv':
        (module / 'ops.py').write_text('def nms(*_): ...\n')
    metadata_of(name).mkdir(exist_ok=True)
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {pin(name)}\n'
    (metadata_of(name) / 'METADATA').write_text(metadata)
    (metadata_of(name) / 'RECORD').touch()
    for needed in NEEDS.get(name, []):
        install(needed)


def uninstall(name: str) -> None:
    if metadata_of(name).exists():
        shutil.rmtree(metadata_of(name))
        shutil.rmtree(SITE / MODULES.get(name, name.replace('-', '_')))


def main() -> None:
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == '--version':
        return
    line = ' '.join(sys.argv[1:])
    with LOG.open('a') as file:
        file.write(f'{line}\n')
    if os.environ.get('FAKE_PIP_FAILS', 'never') in line:
        sys.exit('fake pip: made to fail')
    if pipe := os.environ.get('FAKE_PIP_WAITS_FOR'):
        Path(pipe).read_text()  # until somebody opens the named pipe
    values = [arguments[index + 1] for index, name in enumerate(arguments) if name in OPTIONS]
    names = [name for name in arguments if not name.startswith('-') and name not in values]
    if command == 'wheel':
        folder = Path(arguments[arguments.index('-w') + 1])
        folder.mkdir(exist_ok=True)
        (folder / f'{names[0].replace("==", "-")}-fake.whl').touch()
    elif command == 'uninstall':
        for name in names:
            uninstall(name)
    elif command == 'install':
        for name in names:
            if inner := re.fullmatch(r'\.\[(.+)\]', name):
                for package in ('mmkd_plugin', *extra(inner[1])):
                    install(package)
            else:
                install('mmcv' if name.endswith('.whl') else name)


if __name__ == '__main__':
    main()
