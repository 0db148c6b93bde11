"""Every config is loaded and built, its name is true, and its folder describes it."""

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import modelindex
import pytest
import torch
import yaml
from helpers import detection  # noqa: F401  it imports the hosts, whose warnings are not ours
from helpers.configs import (
    CONFIGS,
    FOLDER,
    NAMES,
    ROOT,
    build,
    fresh,
    last_checkpoint,
    narrow,
    parameters,
    read,
)
from mmengine.config import Config
from torch import nn

from mmkd_plugin.engine.stages import config_text
from mmkd_plugin.loading.build import build_network, network_config

FOLDERS = sorted(path.parent for path in FOLDER.glob('*/metafile.yml'))
BY_STEM = {Path(name).name: name for name in NAMES}
DEMOS = ('demo', 'digit_scenes')
#: It has weights and an index, and no config: see test_model_zoo.py.
ZOO = FOLDER / 'model_zoo'
ALGORITHMS = [folder for folder in FOLDERS if folder != ZOO]
#: Folders whose methods are in no study yet.
UNSTUDIED = (
    'baselines',
    'bckd',
    'cross_modal',
    'crosskd',
    'cwd',
    'dist_kd',
    'dkd',
    'fgd',
    'ld',
    'mgd',
    'nkd',
    'pkd',
    'rkd',
    'shallow_mimic',
)
CONVENTION = re.compile(
    r'[a-z0-9-]+(_[a-z0-9-]+)*'  # the algorithm, the teachers, the student
    r'_(?P<gpus>\d)xb(?P<batch>\d+)(-(?P<length>\d+)(?P<unit>[ex]))?'
    r'_(?P<data>cifar10|cifar100|in1k|coco|voc0712|distorted-mnist)'
)
DATA = {
    'cifar10': 'CIFAR10',
    'cifar100': 'CIFAR100',
    'in1k': 'ImageNet',
    'coco': 'CocoDataset',
    'distorted-mnist': 'mmkd_plugin.DistortedMNIST',
}


def folder_name(folder: Path) -> str:
    return folder.name


def networks(cfg: Config) -> Iterator[Any]:
    """Yield all networks that a config names: dicts, paths, ``pkg::path``."""
    model = cfg.model
    if 'student' in model or 'peers' in model or 'teacher' in model:
        yield from (model[key] for key in ('student',) if key in model)
        for entry in [*model.get('teachers', []), *model.get('peers', []), model.get('teacher')]:
            if entry is not None:
                yield entry.model
    else:
        yield model


@pytest.mark.parametrize('name', NAMES)
def test_a_config_is_loaded_and_its_networks_are_built(name: str) -> None:
    cfg = read(name)
    assert {'train_dataloader', 'optim_wrapper', 'train_cfg', 'default_scope'} <= cfg.keys()
    # The meta device allocates nothing. MMPretrain's ResNet is built from numbers in tensors.
    with torch.device('cpu' if 'in1k' in name else 'meta'):
        for network in networks(cfg):
            assert isinstance(build_network(network_config(network, name), name), nn.Module)


@pytest.mark.parametrize('name', [name for name in NAMES if 'dml_' in name or '/dml' in name])
def test_a_config_of_peers_is_built_as_a_whole(name: str) -> None:
    cfg = narrow(fresh(name))
    assert len(build(cfg).peers) == len(cfg.model.peers)


def test_no_two_configs_share_a_stem() -> None:
    """A stem names the folder of a stage below the work root."""
    assert len(BY_STEM) == len(NAMES) > 100


@pytest.mark.parametrize('name', [name for name in NAMES if not name.startswith(DEMOS)])
def test_a_name_follows_the_convention_and_is_true(name: str) -> None:
    match = CONVENTION.fullmatch(Path(name).name)
    assert match
    cfg = read(name)
    assert cfg.train_dataloader.batch_size == int(match['batch'])
    if match['length']:
        assert cfg.train_cfg.max_epochs == int(match['length']) * (
            12 if match['unit'] == 'x' else 1
        )
    if match['data'] in DATA:
        assert cfg.val_dataloader.dataset.type == DATA[match['data']]
    else:
        assert cfg.val_dataloader.dataset.ann_file == 'VOC2007/ImageSets/Main/test.txt'


def stages_of(text: str) -> set[tuple[str, str]]:
    """Return stem and file name of every checkpoint below the work root that a text names."""
    return set(re.findall(r'work_dirs/([^/"\']+)/([a-z]+_\d+\.pth)', text))


@pytest.mark.parametrize('name', NAMES)
def test_a_checkpoint_is_the_last_of_another_config(name: str) -> None:
    for stem, file in stages_of(json.dumps(read(name).to_dict(), default=repr)):
        assert file == last_checkpoint(read(BY_STEM[stem]))


@pytest.mark.parametrize('name', NAMES)
def test_a_teachers_config_is_that_of_its_checkpoint(name: str) -> None:
    model = read(name).model
    for teacher in [*model.get('teachers', []), *([model.teacher] if 'teacher' in model else [])]:
        for stem, _ in stages_of(teacher.checkpoint):
            trained = BY_STEM[stem]
            if isinstance(teacher.model, str):
                assert Path(teacher.model).resolve() == FOLDER / f'{trained}.py'
            else:  # written out, so that a result does not depend on where the clone lies
                built, own = (
                    build_network(network_config(model, name), name).state_dict()
                    for model in (teacher.model, read(trained).model)
                )
                assert [(key, value.shape) for key, value in built.items()] == [
                    (key, value.shape) for key, value in own.items()
                ]


@pytest.mark.parametrize(
    'name',
    [
        'kd/kd_resnet56_resnet20_1xb128-160e_cifar10',
        'amtml_kd/amtml-kd_resnet32-56-110_resnet20_1xb128-200e_cifar10',
        'ie_kd/ie-ft_ssd300_r50_r18_8xb8-24e_voc0712',
        'demo/ie_kd',
        'digit_scenes/amtml_kd_gfl_r18',
    ],
)
def test_a_stages_hash_does_not_depend_on_where_the_clone_lies(name: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / 'elsewhere')
    moved = Config.fromfile(tmp_path / f'elsewhere/{name}.py')
    assert config_text(moved) == config_text(fresh(name))


# The folders: README.md, metafile.yml, and the index that MIM reads.


@cache
def index() -> Any:
    return modelindex.load(str(ROOT / 'model-index.yml'))


def rows(readme: str) -> dict[str, list[str]]:
    """Return the cells of every table row that begins with a link to a config, by its stem."""
    found = re.findall(r'^\| \[([^\]]+)\]\(([^)]+)\.py\) \| (.*) \|$', readme, flags=re.M)
    assert all(text == target for text, target, _ in found)
    assert len({text for text, *_ in found}) == len(found)
    return {text: [cell.strip() for cell in cells.split(' | ')] for text, _, cells in found}


def test_every_folder_has_a_readme_and_a_metafile() -> None:
    folders = {path.parent for path in CONFIGS}
    assert folders == set(ALGORITHMS)
    assert set(FOLDERS) == {path.parent for path in FOLDER.glob('*/README.md')}
    imported = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    assert [ROOT / path for path in imported] == [f / 'metafile.yml' for f in FOLDERS]


@pytest.mark.parametrize('folder', ALGORITHMS, ids=folder_name)
def test_a_readme_lists_the_configs_of_its_folder(folder: Path) -> None:
    readme = (folder / 'README.md').read_text()
    assert rows(readme).keys() == {path.stem for path in folder.glob('*.py')}
    for target in re.findall(r'\]\((?!http)([^)]+)\)', readme):
        assert (folder / target).is_file(), target
    if folder.name not in DEMOS:
        assert {cells[-1] for cells in rows(readme).values()} == {'not trained yet'}


@pytest.mark.parametrize('folder', ALGORITHMS, ids=folder_name)
def test_a_readmes_figures_are_those_of_the_studies(folder: Path) -> None:
    readme, results = ((folder / 'README.md').read_text(), (ROOT / 'docs/results.md').read_text())
    figures = re.findall(r'\d+\.\d+ ± \d+\.\d+|[−+]\d+\.\d+ \[[^\]]+\]', readme)
    assert figures or folder.name in UNSTUDIED
    assert not [figure for figure in figures if figure not in results]


@pytest.mark.parametrize('folder', ALGORITHMS, ids=folder_name)
def test_a_readmes_commands_are_true(folder: Path) -> None:
    """The files exist, every stage comes after those that it needs, and tests are of its end."""
    blocks = re.findall(r'```bash\n(.*?)```', (folder / 'README.md').read_text(), flags=re.S)
    commands = ''.join(blocks).replace('\\\n', ' ').splitlines()
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), flags=re.M)
    assert commands
    for command in commands:
        words = command.split()
        if words[0] == 'make':
            assert words[1] in targets
            continue
        assert words[0] in ('python', 'bash')
        assert (ROOT / words[1]).is_file()
        trained: list[str] = []
        for word in words[2:]:
            if word.endswith('.py'):
                name = str(Path(word).relative_to('configs').with_suffix(''))
                needed = stages_of(json.dumps(read(name).model.to_dict(), default=repr))
                if 'test.py' not in words[1]:
                    assert {stem for stem, _ in needed} <= set(trained), command
                trained.append(Path(name).name)
            elif word.endswith('.pth'):
                assert word == f'work_dirs/{trained[-1]}/{last_checkpoint(read(name))}'
            elif words[1] == 'tools/study.py' and word not in ('run', 'report'):
                assert (ROOT / f'tools/experiments/studies/{word}.py').is_file()


@pytest.mark.parametrize('folder', ALGORITHMS, ids=folder_name)
def test_a_readmes_parameters_are_counted(folder: Path) -> None:
    """A table that has the column; those of all peers together."""
    readme = (folder / 'README.md').read_text()
    header = re.search(r'^\| config \| (.*parameters.*) \|$', readme, flags=re.M)
    if header is None:
        assert folder.name not in ('baselines', 'dml', 'ie_dml')
        return
    column = next(i for i, cell in enumerate(header[1].split(' | ')) if 'parameters' in cell)
    for stem, cells in rows(readme).items():
        name = f'{folder.name}/{stem}'
        with torch.device('meta'):
            built = [build_network(network_config(n, name), name) for n in networks(read(name))]
        count = f'{sum(map(parameters, built)):,}'
        assert cells[column] == ('' if 'ssd300' in stem else count)


def test_the_index_lists_what_has_a_result() -> None:
    assert not index().check_errors
    assert {collection.readme for collection in index().collections} == {'README.md'}
    assert len(index().collections) == len(FOLDERS)
    listed = [model for model in index().models if not model.weights]
    assert listed
    for model in listed:
        path = ROOT / model.config
        [result] = model.results
        [figure] = result.metrics.values()
        assert path in CONFIGS
        assert model.name == path.stem
        assert rows((path.parent / 'README.md').read_text())[path.stem][1].startswith(f'{figure} ±')
