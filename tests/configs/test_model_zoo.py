"""The networks of configs/model_zoo: the index states what the files are, to the last digit."""

import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import modelindex
import pytest
import torch
from experiments.model_zoo.add import KNOWN_DATA, LIMIT
from experiments.model_zoo.index import Zoo
from experiments.model_zoo.verify import checked_bytes, load_entry
from helpers import detection  # noqa: F401  it imports the hosts, whose warnings are not ours
from helpers.configs import ROOT, read
from mmengine.runner import load_checkpoint
from mmpretrain import get_model

from mmkd_plugin.loading.run_model import kind_of
from mmkd_plugin.registry import DATASETS

ZOO = Zoo()
ENTRIES = ZOO.entries()
every_network = pytest.mark.parametrize('name', ENTRIES)


def run_tool(*words: object) -> str:
    """Run a tool on the CPU, whose figures the index has."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_verify_finds_every_metric_to_the_last_digit() -> None:
    printed = run_tool('tools/model_zoo.py', 'verify')
    lines = [line for line in printed.splitlines() if ': verified, ' in line]
    stated = {name: entry.metrics['accuracy/top1'] for name, entry in ENTRIES.items()}
    assert lines == [f'{name}: verified, accuracy/top1 = {stated[name]}' for name in ENTRIES]


@pytest.mark.slow
def test_test_tool_tests_a_network_of_the_zoo(tmp_path: Path) -> None:
    entry = ENTRIES['amtml_label']
    printed = run_tool('tools/test.py', entry.config, entry.weights, '--work-dir', tmp_path)
    assert f'accuracy/top1: {entry.metrics["accuracy/top1"]:.4f}' in printed


@every_network
def test_network_loads_into_the_model_that_its_framework_builds(name: str) -> None:
    entry = ENTRIES[name]
    checked_bytes(ZOO, entry)  # the hash
    cfg = read(str(Path(entry.config).relative_to('configs').with_suffix('')))
    assert kind_of(cfg.model) == ''
    load_checkpoint(get_model(cfg), str(ROOT / entry.weights), strict=True)


@every_network
def test_metric_of_a_classifier_holds_on_any_cpu(name: str) -> None:
    """No image is near a tie: CPUs differ by 1e-5 at most in the logits."""
    entry = ENTRIES[name]
    if entry.task != 'Image Classification':
        pytest.skip('a detector has no single margin')
    cfg = read(str(Path(entry.config).relative_to('configs').with_suffix('')))
    network = load_entry(ZOO, entry).eval()
    data = images(cfg.test_dataloader.dataset.type.rpartition('.')[2])
    mean, std = (cfg.data_preprocessor[key][0] for key in ('mean', 'std'))
    with torch.no_grad():
        first, second = network((data - mean) / std).topk(2).values.unbind(1)
    assert (first - second).min() > 1e-4


@cache
def images(name: str) -> torch.Tensor:
    data = DATASETS.build(dict(type=name, split='test', pipeline=[]))
    return (
        torch.stack(
            [torch.from_numpy(data.get_data_info(index)['img']) for index in range(len(data))]
        )
        .permute(0, 3, 1, 2)
        .float()
    )


@every_network
def test_entry_states_where_it_comes_from(name: str) -> None:
    entry = ENTRIES[name]
    data = KNOWN_DATA[entry.data]
    assert (entry.task, entry.licence) == (data.task, data.licence)
    assert entry.licence_source == data.licence_source
    assert read(str(Path(entry.config).relative_to('configs').with_suffix('')))
    assert (ROOT / entry.training_config).is_file()
    assert re.fullmatch('[0-9a-f]{64}', entry.sha256 and entry.training_sha256)
    assert Path(entry.weights).name == f'{name}-{entry.sha256[:8]}.pth'
    assert entry.metrics and entry.versions.keys() >= {'torch', 'mmengine'}


def test_folder_holds_the_listed_files_and_is_small() -> None:
    files = {path.name: path.stat().st_size for path in ZOO.folder.iterdir()}
    listed = {Path(entry.weights).name for entry in ENTRIES.values()}
    assert files.keys() == listed | {'README.md', 'metafile.yml'}
    assert all(files[name] <= LIMIT for name in listed)
    assert sum(files.values()) < 5 * LIMIT


def test_page_has_the_table_of_the_index_and_names_its_files() -> None:
    page = ZOO.readme.read_text()
    assert ZOO.with_table(page, ENTRIES.values()) == page
    named = re.findall(r'configs/model_zoo/[\w-]+\.pth', page)
    assert named and all((ROOT / name).is_file() for name in named)


def test_index_has_every_network_in_its_collection() -> None:
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    assert not index.check(silent=True)
    assert [model.name for model in index.models if model.weights] == list(ENTRIES)
    [zoo] = [each for each in index.collections if each.name == 'Model zoo']
    assert zoo.readme == 'README.md'


def test_demo_has_its_networks() -> None:
    demo: Any = runpy.run_path(str(ROOT / 'tools/demo.py'), run_name='demo')['DEMO']
    for training in (*demo.teachers, *demo.students):
        assert ENTRIES[training.name].training_config == f'configs/demo/{training.name}.py'
