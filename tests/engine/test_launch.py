"""How the model is wrapped for several processes, and what one run leaves to the next."""

from typing import Any

import pytest
from mmengine.config import Config
from mmengine.visualization import Visualizer

from mmkd_plugin.engine import launch

ORDINARY, MUTUAL = dict(type='mmkd_plugin.Distiller'), dict(type='mmkd_plugin.MutualDistiller')


@pytest.mark.parametrize(
    ('device', 'model', 'expected'),
    [
        ('cpu', ORDINARY, dict(type='MMDistributedDataParallel', device_ids=None)),
        ('cpu', MUTUAL, dict(type='mmkd_plugin.PeerDataParallel', device_ids=None)),
        ('cuda', MUTUAL, dict(type='mmkd_plugin.PeerDataParallel')),
        ('cuda', ORDINARY, None),
    ],
)
def test_networks_that_learn_from_each_other_have_their_own_wrapper(
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


def test_what_the_config_says_of_the_wrapper_stays(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_the_visualizer_of_a_run_is_not_that_of_the_next(kind: type[Visualizer]) -> None:
    with launch.own_state():
        first = kind.get_instance('visualizer', save_dir='first')
        assert kind.get_instance('visualizer') is first
    assert kind.get_instance('visualizer', save_dir='second') is not first
