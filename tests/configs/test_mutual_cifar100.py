"""DML and IE-DML on CIFAR-100, and the networks alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cifar_files import TRAIN, write_cifar
from helpers.configs import NAMES, build, fresh, narrow, read
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR100
from mmpretrain.structures import DataSample

PEERS = {
    'resnet32_resnet32': ['resnet32'] * 2,
    'resnet32_wrn-28-10': ['resnet32', 'wrn-28-10'],
    'resnet32_mobilenet': ['resnet32', 'mobilenet'],
    'resnet32-x3': ['resnet32'] * 3,
}


def mutual(method: str, peers: str) -> str:
    return f'{method.replace("-", "_")}/{method}_{peers}_1xb64-200e_cifar100'


def alone(network: str) -> str:
    return f'baselines/{network}_1xb64-200e_cifar100'


MUTUAL = [mutual(method, peers) for method in ('dml', 'ie-dml') for peers in PEERS]
PLAIN = [alone(network) for network in ('resnet32', 'wrn-28-10', 'mobilenet')]


def batch(count: int = 4) -> dict[str, Any]:
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    return dict(
        inputs=list(images),
        data_samples=[DataSample().set_gt_label(index) for index in range(count)],
    )


def test_the_configs_are_complete() -> None:
    assert sorted([*PLAIN, *MUTUAL]) == sorted(name for name in NAMES if '_1xb64-200e_' in name)


@pytest.mark.slow
@pytest.mark.parametrize('name', MUTUAL)
def test_one_step_moves_every_parameter(name: str) -> None:
    cfg = narrow(fresh(name))
    model = build(cfg).train()
    model.init_weights()
    wrappers = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    logged = model.train_step(batch(), wrappers)
    assert all(value.isfinite() for value in logged.values())
    assert not [
        name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])
    ]
    for wrapper in wrappers.values():
        [group] = wrapper.optimizer.param_groups
        assert [group[key] for key in ('lr', 'momentum', 'nesterov', 'weight_decay')] == [
            0.1,
            0.9,
            True,
            5e-4,
        ]


@pytest.mark.slow
def test_an_epoch_validates_and_saves_every_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = fresh(mutual('ie-dml', 'resnet32_resnet32'))
    write_cifar(CIFAR100, tmp_path / 'data', monkeypatch)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=TRAIN // 2, num_workers=0)
        loader.dataset.update(data_root=str(tmp_path / 'data'), download=False)
    cfg.merge_from_dict(
        dict(work_dir=str(tmp_path / 'run'), train_cfg=dict(max_epochs=1), log_level='WARNING')
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    scores = [f'val/{name}/accuracy/top1' for name in ('first', 'second', 'mean', 'ensemble')]
    assert set(scores) < runner.message_hub.log_scalars.keys()
    saved = sorted(path.name for path in (tmp_path / 'run').glob('*.pth'))
    assert saved == ['epoch_1.pth', 'epoch_1_first.pth', 'epoch_1_second.pth']


@pytest.mark.parametrize('name', [*MUTUAL, *PLAIN])
def test_the_schedule_is_the_published_one(name: str) -> None:
    cfg = read(name)
    assert cfg.train_dataloader.batch_size == 64
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.milestones) == (200, [60, 120, 180])


@pytest.mark.parametrize('peers', PEERS)
def test_methods_differ_in_nothing_but_the_method(peers: str) -> None:
    dml, ie_dml = (fresh(mutual(method, peers)) for method in ('dml', 'ie-dml'))
    plain = [read(alone(network)) for network in PEERS[peers]]
    assert [peer.model for peer in dml.model.peers] == [cfg.model for cfg in plain]
    assert dml.model.pop('methods') == dict(dml=dict(type='SoftTarget', temperature=1.0))
    methods = ie_dml.model.pop('methods')
    assert list(methods) == ['ie']
    others = range(len(PEERS[peers]) - 1)
    assert [pair.get('index', 0) for pair in methods.ie.pairs] == list(others)
    assert dml.model == ie_dml.model
    for key in (
        'data_preprocessor',
        'train_dataloader',
        'val_dataloader',
        'param_scheduler',
        'train_cfg',
    ):
        assert dml[key] == ie_dml[key] == plain[0][key], key
    assert dml.optim_wrapper == {
        **plain[0].optim_wrapper,
        'constructor': 'mmkd_plugin.PeerOptimWrappers',
    }
