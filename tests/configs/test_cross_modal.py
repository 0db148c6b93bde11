"""Colour to grey on CIFAR-10: one step of the config on files in CIFAR's format."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cifar_files import write_cifar
from helpers.configs import build, fresh, one_step, read, save
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.datasets import CIFAR10

from mmkd_plugin.loading.build import build_network, network_config

NAME = 'cross_modal/kd-hint_rgb-resnet56_grey-resnet20_1xb128-160e_cifar10'


def test_one_step_of_colour_to_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(CIFAR10, tmp_path / 'data', monkeypatch)
    cfg = fresh(NAME)
    [teacher] = cfg.model.teachers
    teacher.checkpoint = str(tmp_path / 'teacher.pth')
    save(build_network(network_config(teacher.model, 'teacher'), 'teacher'), teacher.checkpoint)
    cfg.train_dataloader.dataset.dataset.data_root = str(tmp_path / 'data')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build(cfg)
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        dataset.full_init()
        raw: Any = pseudo_collate([dataset[index] for index in range(8)])
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for grey, colour in zip(raw['inputs'], raw['views']['resnet56']['inputs'], strict=True):
        assert tuple(grey.shape) == (1, 32, 32)
        expected = (weights * colour.float()).sum(dim=0)
        assert (grey[0].float() - expected).abs().max() <= 1
    logged, _ = one_step(model, cfg, raw)
    assert {'kd.loss_kd', 'hint.loss_hint'} <= logged.keys()


def test_the_view_moves_as_the_student_does() -> None:
    cfg = read(NAME)
    grey, *student = cfg.train_dataloader.dataset.dataset.pipeline
    assert student == cfg.model.teachers[0].view.pipeline
    assert grey == cfg.val_dataloader.dataset.pipeline[0] == cfg.test_dataloader.dataset.pipeline[0]
