import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import mmkd_plugin

ROOT = Path(__file__).parents[1]
ZOO = ROOT / 'configs/model_zoo'
REQUIREMENTS = metadata.requires('mmkd_plugin') or []


def project_name(requirement: str) -> str:
    """Return the name alone, in one spelling: ``Foo_bar>=1; ...`` is ``foo-bar``."""
    return re.split(r'[^\w.-]', requirement, maxsplit=1)[0].lower().replace('_', '-')


def pins() -> dict[str, str]:
    lines = [
        line
        for line in (ROOT / 'constraints.txt').read_text().splitlines()
        if line and not line.startswith('#')
    ]
    return {project_name(line): line for line in lines}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The files of the wheel and their sizes, made in a copy so that nothing is written here."""
    folder = tmp_path_factory.mktemp('wheel')
    unwanted = shutil.ignore_patterns(
        '.*_cache',
        '.git',
        '.venv',
        '__pycache__',
        'build',
        'data',
        'dist',
        'work_dirs',
        '*.egg-info',
    )
    shutil.copytree(ROOT, folder / 'copy', symlinks=True, ignore=unwanted)
    pip = [
        sys.executable,
        '-m',
        'pip',
        'wheel',
        '--quiet',
        '--no-deps',
        '--no-build-isolation',
        '-w',
        folder,
        folder / 'copy',
    ]
    subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    [path] = folder.glob('*.whl')
    return {file.filename: file.file_size for file in zipfile.ZipFile(path).infolist()}


def test_version_is_in_one_file() -> None:
    assert metadata.version('mmkd_plugin') == mmkd_plugin.__version__
    assert f"'{mmkd_plugin.__version__}'" not in (ROOT / 'pyproject.toml').read_text()


def test_requirements_without_extra_are_none() -> None:
    assert [requirement for requirement in REQUIREMENTS if 'extra ==' not in requirement] == []


def test_extras_never_name_mmcv() -> None:
    assert not {'mmcv', 'mmcv-lite', 'mmcv-full'} & {
        project_name(requirement) for requirement in REQUIREMENTS
    }


@pytest.mark.parametrize(
    ('extra', 'hosts'),
    [
        ('classification', {'mmengine', 'mmpretrain'}),
        ('detection', {'mmengine', 'mmdet'}),
        ('demo', set()),
        ('report', set()),
        ('analyze', set()),
        ('docs', set()),
        ('dev', set()),
    ],
)
def test_extras_have_a_known_version_of_every_package(extra: str, hosts: set[str]) -> None:
    wanted = {
        project_name(requirement)
        for requirement in REQUIREMENTS
        if re.search(rf'extra == .{extra}\b', requirement)
    }
    assert hosts <= wanted
    assert wanted - {'mmkd-plugin'}
    assert wanted - {'mmkd-plugin'} <= set(pins())


def test_constraints_are_exact() -> None:
    assert [line for line in pins().values() if not re.fullmatch(r'[\w.-]+==[\w.]+', line)] == []


@pytest.mark.slow
def test_wheel_has_every_module_and_the_type_marker(wheel: dict[str, int]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmkd_plugin').rglob('*.py')}
    assert modules | {'mmkd_plugin/py.typed'} <= wheel.keys()
    assert any(name.endswith('licenses/LICENSE') for name in wheel)


@pytest.mark.slow
def test_wheel_has_the_configs_for_mim(wheel: dict[str, int]) -> None:
    configs = {
        f'mmkd_plugin/.mim/{path.relative_to(ROOT)}' for path in (ROOT / 'configs').rglob('*.py')
    }
    assert len(configs) > 5
    assert (
        configs | {'mmkd_plugin/.mim/model-index.yml', 'mmkd_plugin/.mim/tools/train.py'}
        <= wheel.keys()
    )
    assert {name.split('/')[0] for name in wheel if '.dist-info' not in name} == {'mmkd_plugin'}


@pytest.mark.slow
def test_wheel_has_the_model_zoo_and_stays_small(wheel: dict[str, int]) -> None:
    """The index in the wheel names these files."""
    files = {f'mmkd_plugin/.mim/{path.relative_to(ROOT)}' for path in ZOO.iterdir()}
    assert any(name.endswith('.pth') for name in files)
    assert files <= wheel.keys()
    assert sum(wheel[name] for name in files) < 5e6 and sum(wheel.values()) < 10e6


@pytest.mark.slow
def test_wheel_tools_are_those_for_users(wheel: dict[str, int]) -> None:
    folder = 'mmkd_plugin/.mim/tools/'
    tools = {name.removeprefix(folder) for name in wheel if name.startswith(folder)}
    assert tools == {
        *(
            'analyze.py',
            'cache_teachers.py',
            'compare_detections.py',
            'distill.py',
            'export_student.py',
            'inspect_taps.py',
        ),
        *('make_digit_scenes.py', 'test.py', 'train.py'),
        *('dist_test.sh', 'dist_train.sh', 'slurm_test.sh', 'slurm_train.sh'),
    }


def test_model_index_every_model_has_its_config() -> None:
    imported = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    models = [
        model for path in imported for model in yaml.safe_load((ROOT / path).read_text())['Models']
    ]
    assert len({model['Name'] for model in models}) == len(models)
    without = [model for model in models if 'Weights' not in model]
    assert all(model['Name'] == Path(model['Config']).stem for model in without)
    assert [model['Config'] for model in models if not (ROOT / model['Config']).is_file()] == []
    listed = {ROOT / path for path in imported}
    assert listed == set((ROOT / 'configs').rglob('metafile.yml'))
