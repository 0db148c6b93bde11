"""ResNet-34 to ResNet-18 on ImageNet, on eight small pictures in ImageNet's folders."""

from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers.configs import NAMES, build, fresh, last_checkpoint, one_step, parameters, read
from mmengine.config import Config
from mmengine.runner import Runner

from mmkd_plugin.loading.build import build_network, network_config

PARAPHRASER = 'ie_kd/paraphraser_resnet34_8xb32-3e_in1k'
PARAMETERS = {
    PARAPHRASER: 8_262_144,
    'kd/kd_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'kd/kd-hard_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'kd/kd-standardized_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'dist_kd/dist_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'dkd/dkd_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'nkd/nkd_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'rkd/rkd_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'factor_transfer/ft_resnet34_resnet18_8xb32_in1k': 11_689_512,
    'ie_kd/ie-ft_resnet34_resnet18_8xb32_in1k': 11_689_512,
}
DISTILLED = [name for name in PARAMETERS if name != PARAPHRASER]


def local(name: str, root: Path) -> Config:
    """Return the config with a teacher and pictures below ``root``."""
    cfg = fresh(name)
    for teacher in [
        *cfg.model.get('teachers', []),
        *([cfg.model.teacher] if 'teacher' in cfg.model else []),
    ]:
        teacher.checkpoint = str(root / 'resnet34.pth')
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = str(root / 'imagenet')
    return cfg


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pictures, an untrained teacher, and its untrained paraphraser."""
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
        folder = root / Path(PARAPHRASER).name
        folder.mkdir()
        torch.save(dict(state_dict=build(cfg).state_dict()), folder / last_checkpoint(cfg))
    return root


def test_the_configs_are_complete() -> None:
    assert sorted(PARAMETERS) == [name for name in NAMES if name.endswith('_in1k')]


@pytest.mark.slow
@pytest.mark.parametrize('name', PARAMETERS)
def test_one_step_moves_every_parameter(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMKD_WORK_DIR', str(root))
    cfg = local(name, root)
    model = build(cfg)
    own = model.student if name in DISTILLED else model
    assert parameters(own) == PARAMETERS[name]
    one_step(model, cfg, next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))))


def test_the_teacher_is_the_one_that_mmpretrain_publishes() -> None:
    metafile = yaml.safe_load(
        (files('mmpretrain') / '.mim/configs/resnet/metafile.yml').read_text()
    )
    [published] = [model for model in metafile['Models'] if model['Name'] == 'resnet34_8xb32_in1k']
    for name in PARAMETERS:
        model = read(name).model
        teacher = model.teacher if name == PARAPHRASER else model.teachers[0]
        assert teacher.checkpoint == published['Weights']
        assert f'configs/{teacher.model.removeprefix("mmpretrain::")}' == published['Config']


@pytest.mark.parametrize('name', DISTILLED)
def test_student_data_and_schedule_are_mmpretrains(name: str, tmp_path: Path) -> None:
    (tmp_path / 'stock.py').write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'")
    cfg, stock = read(name), Config.fromfile(tmp_path / 'stock.py')
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
        assert f'/{Path(PARAPHRASER).name}/' in pair.checkpoint
