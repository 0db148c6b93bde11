"""ResNet-32x4 to ResNet-8x4 on small files in CIFAR-100's format."""

from pathlib import Path

import pytest
import torch
from helpers.cifar_files import TRAIN, write_cifar
from helpers.configs import NAMES, fresh, read, save
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR100

from mmkd_plugin.loading.build import build_network, network_config

CONFIGS = [name for name in NAMES if '_1xb64-240e_cifar100' in name]
DISTILLED = [name for name in CONFIGS if not name.startswith('baselines/')]


def test_the_configs_are_complete() -> None:
    methods = ['dist', 'dkd', 'kd', 'kd-standardized', 'nkd', 'rkd']
    assert sorted(Path(name).name.partition('_')[0] for name in DISTILLED) == methods
    assert len(CONFIGS) == 8


@pytest.mark.slow
@pytest.mark.parametrize('name', DISTILLED)
def test_two_steps_of_training_move_every_parameter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = fresh(name)
    write_cifar(CIFAR100, tmp_path / 'data', monkeypatch)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=TRAIN // 2, num_workers=0)
        loader.dataset.update(data_root=str(tmp_path / 'data'), download=False)
    [teacher] = cfg.model.teachers
    teacher.checkpoint = str(tmp_path / 'teacher.pth')
    save(build_network(network_config(teacher.model, 'teacher'), 'teacher'), teacher.checkpoint)
    cfg.merge_from_dict(dict(work_dir=str(tmp_path / 'run'), randomness=dict(seed=0)))
    cfg.custom_hooks, cfg.log_level = [], 'WARNING'
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2)  # a schedule of epochs needs two
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert torch.isfinite(torch.from_numpy(scalars['train/loss'].data[0])).all()
    method = Path(name).name.partition('_')[0].partition('-')[0]
    assert any(key.startswith(f'train/{method}.loss') for key in scalars)
    assert not [
        key
        for key, parameter in runner.model.named_parameters()
        if not runner.optim_wrapper.optimizer.state[parameter]['momentum_buffer'].any()
    ]


@pytest.mark.parametrize('name', CONFIGS)
def test_schedule_is_that_of_the_papers(name: str) -> None:
    cfg = read(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.momentum) == (0.05, 5e-4, 0.9)
    assert cfg.param_scheduler.milestones == [150, 180, 210]
    assert cfg.train_cfg.max_epochs == 240


@pytest.mark.parametrize('name', DISTILLED)
def test_weight_of_the_labels_is_that_of_the_paper(name: str) -> None:
    model = read(name).model
    assert model.get('task_weight', 1.0) == (0.1 if name.startswith('kd/') else 1.0)
    assert model.student == read('baselines/resnet8x4_1xb64-240e_cifar100').model
