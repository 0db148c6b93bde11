"""The code in the docs runs as written."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from helpers import detection as small
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from mmkd_plugin.adapters import TappedModel, score_readers
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.loading.build import build_network, network_config
from mmkd_plugin.models.distillers import Distiller
from mmkd_plugin.registry import MODELS

ROOT = Path(__file__).parents[2]
IMAGE = (3, 64, 64)
#: Their pages have the config of the method alone, for any detector.
MAP_METHODS = ('bckd', 'crosskd', 'cwd', 'fgd', 'ld', 'mgd', 'pkd')
METHOD_PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (ROOT / 'docs/methods').glob('*.md')
    if page.stem not in MAP_METHODS
)


def blocks(page: str, kind: str = 'python') -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf'^```{kind}\n(.*?)^```', (ROOT / page).read_text(), re.M | re.S)


def block_with(page: str, text: str) -> str:
    [found] = [block for block in blocks(page) if text in block]
    return found


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has the configs of the clone, and is the current one."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(files: dict[str, str], clone: Path) -> Any:
    """Write config files, and build the model of the last; its teachers have random weights."""
    for name, text in files.items():
        (clone / name).write_text(text)
    cfg = Config.fromfile(clone / name)
    init_default_scope(cfg.default_scope)
    for teacher in cfg.model.teachers:
        network = build_network(network_config(teacher.model, 'teacher'), 'teacher')
        teacher.checkpoint = str(clone / f'{teacher.name}.pth')
        torch.save(dict(state_dict=network.state_dict()), teacher.checkpoint)
    preprocessor = cfg.get('data_preprocessor')
    return ROOT_MODELS.build(ConfigDict(cfg.model, data_preprocessor=preprocessor))


@pytest.mark.slow
@pytest.mark.parametrize(
    'page',
    [
        *('README.md', 'docs/tutorial.md', 'docs/coming_from_mmrazor.md', 'docs/detection.md'),
        *METHOD_PAGES,
    ],
)
def test_config_of_a_page_builds(page: str, clone: Path) -> None:
    configs = [block for block in blocks(page) if "type='mmkd_plugin.Distiller'" in block]
    assert configs
    for number, config in enumerate(configs):
        model = built({f'config{number}.py': config}, clone)
        assert isinstance(model, Distiller) and len(model.methods) == 1


@pytest.mark.slow
def test_tutorial_hint_is_added_to_the_student(clone: Path) -> None:
    page = 'docs/tutorial.md'
    student = block_with(page, "_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'")
    hint = block_with(page, "_base_ = 'student.py'")
    model = built({'student.py': student, 'hint.py': hint}, clone)
    assert list(model.methods) == ['kd', 'hint']
    shapes = {tuple(p.shape[:2]) for p in model.methods['hint'].parameters()}
    assert (2048, 512) in shapes


@pytest.fixture
def registries() -> Iterator[None]:
    """Forget what a test registers."""
    MODELS.import_from_location()
    ours, readers = dict(MODELS.module_dict), dict(score_readers._READERS)
    yield
    for names, before in ((MODELS.module_dict, ours), (score_readers._READERS, readers)):
        names.clear()
        names.update(before)


@pytest.mark.parametrize(
    ('first', 'loss'), [('PowerLoss', 'power.loss_feature'), ('Method,', 'channels.loss_channels')]
)
def test_loss_and_method_of_the_page_train_a_student(
    first: str, loss: str, tmp_path: Path, registries: None
) -> None:
    page = blocks('docs/write_a_method.md')
    number = next(n for n, block in enumerate(page) if first in block)
    names: dict[str, Any] = {'__name__': 'example'}
    for block in page[number : number + 2]:
        exec(block, names)
    model = tiny.distiller(tmp_path, methods=names['methods'])
    losses = tiny.losses_of(model.train())
    assert losses[loss] > 0
    losses[loss].backward()
    trained = {name.split('.')[0] for name, p in tiny.parameters_of(model) if p.grad is not None}
    assert trained == {'student', 'methods'}
    assert all(p.grad is not None and p.grad.any() for p in model.methods.parameters())


def test_score_reader_of_the_page_reads_a_head(registries: None) -> None:
    example = block_with('docs/write_a_method.md', 'register_score_reader')
    head, reader = example.split('\n\n\n@register_score_reader')
    names: dict[str, Any] = {'__name__': 'example'}
    try:
        exec(head, names)
        config = network_config(*_small_retinanet())
        config.bbox_head.type = 'ScaledRetinaHead'
        network = build_network(config, 'student')
        assert not TappedModel(network, 'student').adapter.score_taps
        exec(f'@register_score_reader{reader}', names)
        tapped = TappedModel(network, 'student')
        tapped.request([], scores=True)
        scores = tapped.observe(torch.rand(2, *IMAGE)).scores
        assert (
            scores is not None and scores.num_classes == small.CLASSES and len(scores.levels) == 5
        )
    finally:
        names['MMDET_MODELS'].module_dict.pop('ScaledRetinaHead', None)


def test_score_reader_of_a_classifier_of_the_page_reads_without_the_label(
    tmp_path: Path, registries: None
) -> None:
    example = block_with('docs/score_readers.md', 'class CosineHead')
    head, reader = example.split('\n\n\n@register_score_reader')
    names: dict[str, Any] = {'__name__': 'example'}
    try:
        exec(head, names)
        config = tiny.classifier()
        config['head']['type'] = 'CosineHead'
        with pytest.raises(ConfigError, match='receives more than the features'):
            tiny.distiller(tmp_path, student=config)
        exec(f'@register_score_reader{reader}', names)
        model = tiny.distiller(tmp_path, student=config).train()
        raw = model.data_preprocessor(tiny.batch_of(), True)
        with model.tapped.recording(raw['inputs']) as recording:
            model.student(**raw, mode='loss')
        found = recording.output.scores
        assert found is not None
        torch.testing.assert_close(found.logits[:, 0], model.student(raw['inputs']))
    finally:
        names['MMPRETRAIN_MODELS'].module_dict.pop('CosineHead', None)


def test_score_reader_of_a_detector_of_the_page_reads_scores_and_boxes(registries: None) -> None:
    example = block_with('docs/score_readers.md', 'class BinnedHead')
    head, reader = example.split('\n\n\n@register_score_reader')
    names: dict[str, Any] = {'__name__': 'example'}
    try:
        exec(head, names)
        config = network_config(*_small_retinanet())
        config.bbox_head = dict(
            type='BinnedHead', num_classes=small.CLASSES, in_channels=8, feat_channels=8,
            strides=[8, 16, 32, 64, 128],
        )  # fmt: skip
        network = build_network(config, 'student')
        assert not TappedModel(network, 'student').adapter.score_taps
        exec(f'@register_score_reader{reader}', names)
        tapped = TappedModel(network, 'student')
        tapped.request([], boxes=True)
        output = tapped.observe(torch.rand(2, *IMAGE))
        assert output.scores is not None and output.boxes is not None
        assert output.scores.logits.shape == (2, 86, small.CLASSES)
        assert output.boxes.values.shape == (2, 86, 4, 8)
    finally:
        names['MMDET_MODELS'].module_dict.pop('BinnedHead', None)


def test_page_of_score_readers_lists_the_heads_of_mmdet() -> None:
    text = (ROOT / 'docs/score_readers.md').read_text().split('## Detectors')[1]
    table = [line.split('|')[1] for line in text.splitlines() if line.startswith('| `')]
    listed = [name for cell in table for name in re.findall(r'`(\w+)`', cell)]
    assert sorted(listed) == sorted(score_readers.registered_heads('mmdet'))


def _small_retinanet() -> tuple[str, str, dict[str, Any]]:
    path, options = small.FAMILIES['retinanet']
    return f'mmdet::{path}', 'student', options


@pytest.mark.slow
def test_loss_of_contributing_is_three_edits_and_trains(tmp_path: Path) -> None:
    """Make the edits in a copy of the package and its tests, run the tests, and train a step."""
    for folder in ('mmkd_plugin', 'tests/helpers', 'tests/models/losses'):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__', '.mim')
        )
    shutil.copy(ROOT / 'tests/conftest.py', tmp_path / 'tests')
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    file, line, test, config = blocks('CONTRIBUTING.md')
    losses = tmp_path / 'mmkd_plugin/models/losses'
    (losses / 'cosine.py').write_text(file)
    _insert(losses / '__init__.py', 'from mmkd_plugin', line)
    _insert(losses / '__init__.py', "    'cka_loss',\n", "    'cosine_loss',\n")
    tests = tmp_path / 'tests/models/losses'
    [row] = re.findall(r'^`(Case\(.*\),)`$', (ROOT / 'CONTRIBUTING.md').read_text(), re.M)
    _insert(tests / 'test_contract.py', '        Case(\n', f'        {row}\n')
    (tests / 'test_cosine.py').write_text(test)
    (tmp_path / 'tests/test_step.py').write_text(_STEP.format(config=config.split('\n', 2)[2]))
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k', 'cosine']
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r'(\d+) passed', done.stdout)
    assert passed is not None and int(passed[1]) > 20, done.stdout


def _insert(path: Path, before: str, text: str) -> None:
    """Insert text before the first occurrence of another."""
    content = path.read_text()
    assert before in content
    path.write_text(content.replace(before, text + before, 1))


#: A training step with the config of the page.
_STEP = """
from helpers import classification as tiny

{config}

def test_cosine_loss_trains(tmp_path):
    found = tiny.losses_of(tiny.distiller(tmp_path, methods=model['methods']).train())
    assert found['cosine.loss_feature'] > 0 and found['cosine.loss_feature'].requires_grad
"""


@pytest.mark.parametrize('name', MAP_METHODS)
def test_methods_on_maps_of_a_page_train(name: str, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    exec(block_with(f'docs/methods/{name}.md', 'methods ='), found)
    model = small.distiller(tmp_path, small.detector('gfl'), methods=found['methods'])
    losses = small.losses_of(model, small.batch_for('gfl'))
    assert sum(value for key, value in losses.items() if key.startswith(f'{name}.loss')) > 0
