"""IE-KD on ImageNet, ResNet-34 to ResNet-18, on eight small pictures in ImageNet's folders."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers.index_entry import index_entry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmkd_plugin.loading.build import build_network, network_config

FOLDER = Path(__file__).parents[2] / 'configs/classification/imagenet'
PARAPHRASER = FOLDER / 'paraphraser_resnet34_in1k.py'
DISTILLED = [FOLDER / f'{method}_resnet34_resnet18_in1k.py' for method in ('kd', 'ft', 'ie_ft')]
CONFIGS = [PARAPHRASER, *DISTILLED]


def stem(path: Path) -> str:
    return path.stem


def local(path: Path, root: Path) -> Config:
    """The config with a teacher and pictures below ``root``."""
    cfg = Config.fromfile(path)
    for teacher in [
        *cfg.model.get('teachers', []),
        *([cfg.model.teacher] if 'teacher' in cfg.model else []),
    ]:
        teacher.checkpoint = str(root / 'resnet34.pth')
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = str(root / 'imagenet')
    return cfg


def built(cfg: Config) -> Any:
    return MODELS.build(
        {**cfg.model, 'data_preprocessor': cfg.data_preprocessor, '_scope_': 'mmpretrain'}
    )


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a teacher that learned nothing, and its paraphraser."""
    root = tmp_path_factory.mktemp('imagenet')
    random = np.random.default_rng(0)
    (root / 'imagenet/train').mkdir(parents=True)
    (root / 'imagenet/meta').mkdir()
    for number in range(8):
        image = random.integers(256, size=(48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f'imagenet/train/{number}.{"png" if number % 2 else "JPEG"}'), image)
    lines = [f'{number}.{"png" if number % 2 else "JPEG"} {125 * number}\n' for number in range(8)]
    (root / 'imagenet/meta/train.txt').write_text(''.join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMKD_WORK_DIR', str(root))
        cfg = local(PARAPHRASER, root)
        teacher = build_network(network_config(cfg.model.teacher.model, 'teacher'), 'teacher')
        torch.save(dict(state_dict=teacher.state_dict()), root / 'resnet34.pth')
        (root / PARAPHRASER.stem).mkdir()
        torch.save(
            dict(state_dict=built(cfg).state_dict()), root / PARAPHRASER.stem / 'epoch_3.pth'
        )
    return root


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=stem)
def test_built_and_one_step(path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMKD_WORK_DIR', str(root))
    cfg = local(path, root)
    model = built(cfg)
    own = model.student if path in DISTILLED else model
    assert index_entry(path, cfg).metadata.parameters == sum(p.numel() for p in own.parameters())
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    total, logged = model.parse_losses(
        model(**model.train().data_preprocessor(batch, True), mode='loss')
    )
    assert all(value.isfinite() for value in logged.values())
    wrapper.backward(total)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert learning and not [
        name for name, p in learning.items() if p.grad is None or not p.grad.any()
    ]
    before = {name: p.detach().clone() for name, p in learning.items()}
    wrapper.step()
    assert not [name for name, p in learning.items() if torch.equal(p, before[name])], (
        'every parameter learns'
    )


def test_small_and_complete() -> None:
    assert sorted(FOLDER.glob('*.py')) == sorted(CONFIGS)
    assert all(len(path.read_text().splitlines()) <= 20 for path in FOLDER.rglob('*.py'))


def test_the_teacher_is_the_one_that_mmpretrain_publishes() -> None:
    metafile = yaml.safe_load(
        (files('mmpretrain') / '.mim/configs/resnet/metafile.yml').read_text()
    )
    [published] = [model for model in metafile['Models'] if model['Name'] == 'resnet34_8xb32_in1k']
    for path in CONFIGS:
        model = Config.fromfile(path).model
        teacher = model.teacher if path == PARAPHRASER else model.teachers[0]
        assert teacher.checkpoint == published['Weights']
        assert f'configs/{teacher.model.removeprefix("mmpretrain::")}' == published['Config']


@pytest.mark.parametrize('path', DISTILLED, ids=stem)
def test_student_data_and_schedule_are_mmpretrains(path: Path, tmp_path: Path) -> None:
    (tmp_path / 'stock.py').write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'")
    cfg, stock = Config.fromfile(path), Config.fromfile(tmp_path / 'stock.py')
    assert cfg.model.student == stock.model
    for key in (
        'data_preprocessor',
        'train_dataloader',
        'val_dataloader',
        'optim_wrapper',
        'param_scheduler',
    ):
        assert cfg[key] == stock[key], key
    assert cfg.train_cfg == stock.train_cfg
    for pair in next(iter(cfg.model.methods.values())).get('pairs', []):
        epochs = Config.fromfile(PARAPHRASER).train_cfg.max_epochs
        assert pair.checkpoint.endswith(f'work_dirs/{PARAPHRASER.stem}/epoch_{epochs}.pth')
