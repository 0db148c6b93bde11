"""The wrapper of the model in several processes, and the state that a run leaves behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import classification as tiny
from helpers.errors import raises_config_error
from helpers.replayed import EXACT, METHODS, Case
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.config import Config
from mmengine.visualization import Visualizer

from mmkd_plugin.engine import launch
from mmkd_plugin.engine.stages import load_stages, train_stages
from mmkd_plugin.models.distillers import MutualDistiller

ORDINARY, MUTUAL = dict(type='mmkd_plugin.Distiller'), dict(type='mmkd_plugin.MutualDistiller')


@pytest.mark.parametrize(
    ('device', 'model', 'expected'),
    [
        ('cpu', ORDINARY, dict(type='MMDistributedDataParallel', device_ids=None)),
        ('cpu', MUTUAL, dict(type='mmkd_plugin.PeerDataParallel', device_ids=None)),
        ('cuda', MUTUAL, dict(type='mmkd_plugin.PeerDataParallel')),
        ('cuda', dict(type=MutualDistiller), dict(type='mmkd_plugin.PeerDataParallel')),
        ('cuda', ORDINARY, None),
    ],
)
def test_join_process_group_chooses_the_wrapper_by_device_and_model(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    model: dict[str, Any],
    expected: dict[str, Any] | None,
) -> None:
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    monkeypatch.setattr(launch, 'is_distributed', lambda: True)
    cfg = Config(dict(model=model))
    assert launch.join_process_group(cfg, 'pytorch') is False
    assert cfg.launcher == 'pytorch'
    common = dict(broadcast_buffers=False, find_unused_parameters=False)
    assert cfg.get('model_wrapper_cfg') == (expected and {**expected, **common})


def test_join_process_group_keeps_the_wrapper_settings_of_the_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(launch, 'is_distributed', lambda: True)
    cfg = Config(dict(model=MUTUAL, model_wrapper_cfg=dict(find_unused_parameters=True)))
    launch.join_process_group(cfg, 'pytorch')
    assert (cfg.model_wrapper_cfg.type, cfg.model_wrapper_cfg.find_unused_parameters) == (
        'mmkd_plugin.PeerDataParallel',
        True,
    )


class HostVisualizer(Visualizer):
    pass


@pytest.mark.parametrize('kind', [Visualizer, HostVisualizer])
def test_isolated_runner_state_removes_the_visualizer_of_a_run(kind: type[Visualizer]) -> None:
    with launch.isolated_runner_state():
        first = kind.get_instance('visualizer', save_dir='first')
        assert kind.get_instance('visualizer') is first
    assert kind.get_instance('visualizer', save_dir='second') is not first


@pytest.mark.parametrize('fails', [False, True])
def test_isolated_runner_state_restores_the_flags_of_torch(fails: bool) -> None:
    before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    try:
        with launch.isolated_runner_state():
            torch.backends.cudnn.benchmark = not before[0]
            torch.use_deterministic_algorithms(not before[1])
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    now = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    assert now == before


def test_isolated_runner_state_gives_numpy_a_fresh_seed() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(7)
        with launch.isolated_runner_state():
            drawn.append(np.random.randint(2**31))
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize('replay', [False, True])
def test_hook_that_exchanges_transforms_is_refused_where_teachers_are_replayed(
    replay: bool, tmp_path: Path
) -> None:
    case = Case(tmp_path)
    model = case.model(EXACT if replay else None, METHODS['soft targets and hint'])
    hook = PipelineSwitchHook(switch_epoch=3, switch_pipeline=[])
    run = tiny.runner(model, tmp_path / 'run', custom_hooks=[hook], **case.settings())
    if not replay:
        launch.check_hooks(run)
        return
    with raises_config_error('custom_hooks', 'PipelineSwitchHook', fix='Leave the hook out'):
        launch.check_hooks(run)


def test_stage_refuses_such_a_hook_before_training(tmp_path: Path) -> None:
    case = Case(tmp_path)
    hook = dict(type='mmdet.PipelineSwitchHook', switch_epoch=3, switch_pipeline=[])
    config = dict(
        model=case.model(EXACT, METHODS['soft targets and hint']),
        custom_hooks=[hook],
        default_scope='mmpretrain',
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        **case.settings(),
    )
    path = tmp_path / 'switching.py'
    Config(config).dump(path)
    with raises_config_error('custom_hooks', 'PipelineSwitchHook'):
        train_stages(load_stages([str(path)], str(tmp_path / 'run')))
    assert not list((tmp_path / 'run').glob('*.pth'))
