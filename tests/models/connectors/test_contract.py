"""The behaviour that all connectors share. A new connector needs one line in ``CONNECTORS``."""

from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from torch import nn

from mmkd_plugin.registry import build_part

# config, shape of the input, shapes of the outputs
CONNECTORS: list[tuple[dict[str, Any], tuple[int, ...], list[tuple[int, ...]]]] = [
    (dict(type='ChannelSplit', channels=6), (2, 6, 4, 5), [(2, 3, 4, 5)] * 2),
    (dict(type='ChannelSplit', channels=6, ratio=0.3), (2, 6), [(2, 2), (2, 4)]),
    (dict(type='FactorEncoder', in_channels=6, factor_channels=4), (2, 6, 4, 5), [(2, 4, 4, 5)]),
    (dict(type='HintRegressor', in_channels=6, out_channels=9), (2, 6, 4, 5), [(2, 9, 4, 5)]),
    (dict(type='HintRegressor', in_channels=6, out_channels=9), (2, 6), [(2, 9)]),
    (dict(type='OverhaulConnector', in_channels=6, out_channels=9), (2, 6, 4, 5), [(2, 9, 4, 5)]),
    (dict(type='Paraphraser', in_channels=6), (2, 6, 4, 5), [(2, 6, 4, 5)]),
]


def built(config: dict[str, Any]) -> nn.Module:
    return build_part(config, nn.Module, 'connector')


@pytest.mark.parametrize(('config', 'shape', 'outputs'), CONNECTORS)
def test_connector_from_a_config_gives_the_stated_shapes(
    config: dict[str, Any], shape: tuple[int, ...], outputs: list[tuple[int, ...]]
) -> None:
    out = built(config)(torch.randn(shape))
    assert [part.shape for part in (out if isinstance(out, tuple) else (out,))] == outputs


@pytest.mark.parametrize(('config', 'shape', 'outputs'), CONNECTORS)
def test_connector_trains_every_parameter_and_passes_the_gradient_on(
    config: dict[str, Any], shape: tuple[int, ...], outputs: list[tuple[int, ...]]
) -> None:
    connector, x = built(config), torch.randn(shape, requires_grad=True)
    out = connector(x)
    parts = out if isinstance(out, tuple) else (out,)
    sum(((part - 1).square() * torch.rand_like(part)).sum() for part in parts).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())


@pytest.mark.parametrize(('config', 'shape', 'outputs'), CONNECTORS)
def test_connector_with_other_channels_is_refused(
    config: dict[str, Any], shape: tuple[int, ...], outputs: list[tuple[int, ...]]
) -> None:
    connector, key = built(config), next(name for name in config if name.endswith('channels'))
    for wrong in ((2, 5, *shape[2:]), (6,), (2, 5, 6)):
        with raises_config_error(key, wrong, '6'):
            connector(torch.randn(wrong))


@pytest.mark.parametrize(
    ('config', 'key'),
    [
        (dict(type=config['type'], **{**counts, name: wrong}), name)
        for config, counts in (
            (dict(type='ChannelSplit'), dict(channels=6)),
            (dict(type='FactorEncoder'), dict(in_channels=6, factor_channels=4)),
            (dict(type='HintRegressor'), dict(in_channels=6, out_channels=9)),
            (dict(type='OverhaulConnector'), dict(in_channels=6, out_channels=9)),
            (dict(type='Paraphraser'), dict(in_channels=6, factor_channels=4)),
        )
        for name in counts
        for wrong in (0, -1, 2.0, True)
    ],
)
def test_connector_with_a_wrong_number_of_channels_is_refused(
    config: dict[str, Any], key: str
) -> None:
    with raises_config_error(f'connector.{key}', config[key], 'an integer >= 1'):
        built(config)
