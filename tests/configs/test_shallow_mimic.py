"""The shallow mimic networks: one step of each config, with narrower students."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.configs import NAMES, build, fresh, one_step, parameters, read, save
from mmengine.config import Config
from mmpretrain.structures import DataSample

from mmkd_plugin.loading.build import build_network, network_config

CONFIGS = [name for name in NAMES if name.startswith('shallow_mimic/')]
ALONE = {
    'shallow_mimic/mimic_resnet14_shallow-1k_1xb64-30e_distorted-mnist': (
        'shallow_mimic/shallow-1k_1xb64-30e_distorted-mnist'
    ),
    'shallow_mimic/mimic_resnet56_shallow-30k_1xb128-160e_cifar10': (
        'shallow_mimic/shallow-30k_1xb128-160e_cifar10'
    ),
}
PARAMETERS = {  # without the convolution's they are k D + H (k + 1), and 10 (H + 1) in the head
    'distorted-mnist': 8 * 26 + 64 * 392 + 1024 * 65 + 10_250,
    'cifar10': 128 * 76 + 1200 * 28_800 + 30_000 * 1201 + 300_010,
}


def batch(name: str, labels: bool) -> dict[str, Any]:
    shape = (3, 32, 32) if 'cifar' in name else (1, 28, 28)
    samples = [DataSample() for _ in range(4)]
    if labels:
        samples = [sample.set_gt_label(label) for label, sample in enumerate(samples)]
    return dict(
        inputs=list(torch.randint(256, (4, *shape), dtype=torch.uint8)), data_samples=samples
    )


def narrow(cfg: Config) -> Config:
    model = cfg.model.get('student', cfg.model)
    model.backbone.update(bottleneck_channels=8, hidden_channels=32)
    model.head.in_channels = 32
    return cfg


def test_the_table_is_complete() -> None:
    assert sorted(CONFIGS) == sorted([*ALONE, *ALONE.values()])


@pytest.mark.parametrize('name', CONFIGS)
def test_one_step_without_labels_moves_every_parameter(name: str, tmp_path: Path) -> None:
    cfg = narrow(fresh(name))
    for teacher in cfg.model.get('teachers', []):
        teacher.checkpoint = str(tmp_path / 'teacher.pth')
        save(build_network(network_config(teacher.model, 'teacher'), 'teacher'), teacher.checkpoint)
    model = build(cfg)
    if name in ALONE and model.methods['mimic'].standardize:  # the hook MeasureLogits sets them
        model.methods['mimic'].set_statistics(torch.zeros(10), torch.ones(10))
    logged, _ = one_step(model, cfg, batch(name, labels=name not in ALONE))
    assert ('mimic.loss_mimic' in logged) == (name in ALONE)
    assert ('loss' in logged) and not any(key.startswith('task') for key in logged)


@pytest.mark.parametrize('name', ALONE)
def test_mimic_and_alone_differ_in_the_targets_alone(name: str) -> None:
    mimic, alone = read(name), read(ALONE[name])
    assert mimic.model.student == alone.model
    assert mimic.model.task_weight == 0
    for key in ('data_preprocessor', 'val_dataloader', 'optim_wrapper', 'param_scheduler'):
        assert mimic[key] == alone[key], key
    assert mimic.train_cfg == alone.train_cfg
    with torch.device('meta'):  # counted, not allocated
        network = build_network(network_config(alone.model, name), name)
    assert parameters(network) == PARAMETERS[name.rpartition('_')[2]]
    hooks = {hook.type for hook in mimic.custom_hooks}
    assert ('mmkd_plugin.MeasureLogits' in hooks) == mimic.model.methods.mimic.get(
        'standardize', False
    )


def test_the_transfer_set_of_distorted_mnist_has_no_labels() -> None:
    mimic, alone = (fresh(name).train_dataloader for name in next(iter(ALONE.items())))
    assert mimic.dataset.pop('labels') is False
    assert mimic == alone
