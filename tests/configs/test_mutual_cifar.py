"""Mutual learning on CIFAR-100, and the networks alone beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cifar_files import TRAIN, write_cifar
from helpers.index_entry import index_entry
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR100
from mmpretrain.structures import DataSample

from mmkd_plugin.loading.build import build_network, network_config

FOLDER = Path(__file__).parents[2] / 'configs/classification/mutual_cifar100'
NETWORKS = ['resnet32', 'wrn28_10', 'mobilenet']
COMPANIES = dict(
    resnet32_resnet32=['resnet32'] * 2,
    resnet32_wrn28_10=['resnet32', 'wrn28_10'],
    resnet32_mobilenet=['resnet32', 'mobilenet'],
    resnet32_x3=['resnet32'] * 3,
)
MUTUAL = [
    FOLDER / f'{method}_{company}_cifar100.py'
    for method in ('dml', 'ie_dml')
    for company in COMPANIES
]
PLAIN = [FOLDER / f'{network}_200e_cifar100.py' for network in NETWORKS]


def stem(path: Path) -> str:
    return path.stem


def narrow(cfg: Config) -> Config:
    """WRN-28-10 is too much for a test: as deep, a tenth as wide."""
    for peer in cfg.model.peers:
        if 'widen_factor' in peer.model.backbone:
            peer.model.backbone.widen_factor = 1
            peer.model.head.in_channels = 64
    return cfg


def batch(count: int = 4) -> dict[str, Any]:
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    return dict(
        inputs=list(images),
        data_samples=[DataSample().set_gt_label(index) for index in range(count)],
    )


def test_nothing_is_missing_and_nothing_is_too_much() -> None:
    assert sorted([*PLAIN, *MUTUAL]) == sorted(FOLDER.glob('*.py'))
    assert all(len(path.read_text().splitlines()) <= 40 for path in FOLDER.rglob('*.py'))


@pytest.mark.slow
@pytest.mark.parametrize('path', MUTUAL, ids=stem)
def test_one_step_moves_all_that_learns(path: Path) -> None:
    cfg = narrow(Config.fromfile(path))
    model = MODELS.build(
        {**cfg.model, 'data_preprocessor': cfg.data_preprocessor, '_scope_': 'mmpretrain'}
    ).train()
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
def test_an_epoch_in_a_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.fromfile(FOLDER / 'ie_dml_resnet32_resnet32_cifar100.py')
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


@pytest.mark.parametrize('path', [*MUTUAL, *PLAIN], ids=stem)
def test_in_the_index_with_the_published_schedule(path: Path) -> None:
    cfg = Config.fromfile(path)
    metadata = index_entry(path, cfg).metadata
    networks = [peer.model for peer in cfg.model.get('peers', [])] or [cfg.model]
    with torch.device('meta'):  # counted, not allocated
        built = [
            build_network(network_config(network, 'network'), 'network') for network in networks
        ]
    assert metadata.parameters == sum(p.numel() for network in built for p in network.parameters())
    assert metadata.data['Batch Size'] == cfg.train_dataloader.batch_size == 64
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.milestones) == (200, [60, 120, 180])


@pytest.mark.parametrize('company', COMPANIES)
def test_methods_differ_in_nothing_but_the_method(company: str) -> None:
    dml, ie_dml = (
        Config.fromfile(FOLDER / f'{method}_{company}_cifar100.py') for method in ('dml', 'ie_dml')
    )
    alone = [
        Config.fromfile(FOLDER / f'{network}_200e_cifar100.py') for network in COMPANIES[company]
    ]
    assert [peer.model for peer in dml.model.peers] == [cfg.model for cfg in alone]
    assert dml.model.pop('methods') == dict(dml=dict(type='SoftTarget', temperature=1.0))
    methods = ie_dml.model.pop('methods')
    others = range(len(COMPANIES[company]) - 1)
    assert [pair.get('index', 0) for pair in methods.ie.pairs] == list(others) and list(
        methods
    ) == ['ie']
    assert dml.model == ie_dml.model
    for key in (
        'data_preprocessor',
        'train_dataloader',
        'val_dataloader',
        'param_scheduler',
        'train_cfg',
    ):
        assert dml[key] == ie_dml[key] == alone[0][key], key
    assert dml.optim_wrapper == {
        **alone[0].optim_wrapper,
        'constructor': 'mmkd_plugin.PeerOptimWrappers',
    }
