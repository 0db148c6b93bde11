import pytest
import torch
from torch import nn

from mmkd_plugin.models.connectors import OverhaulConnector


def test_a_linear_map_of_channels_then_batch_norm() -> None:
    connector, x = OverhaulConnector(3, 5), torch.randn(4, 3, 6, 2)
    out = connector(x)
    assert out.shape == (4, 5, 6, 2)
    assert sum(p.numel() for p in connector.parameters()) == 5 * 3 + 5 + 5
    mixed = torch.einsum('oc,nchw->nohw', connector.convolution.weight[:, :, 0, 0], x)
    mean, variance = (
        mixed.mean(dim=(0, 2, 3), keepdim=True),
        mixed.var(dim=(0, 2, 3), keepdim=True, correction=0),
    )
    torch.testing.assert_close(out, (mixed - mean) / (variance + 1e-5).sqrt())
    assert out.min() < -1, 'no activation'


def test_it_starts_by_hes_rule_of_outgoing_connections() -> None:
    torch.manual_seed(0)
    weight = OverhaulConnector(256, 128).convolution.weight
    assert weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)


def test_its_parameters_learn() -> None:
    connector = OverhaulConnector(3, 5)
    (connector(torch.randn(1, 3, 2, 2)) - 1).square().mul(torch.rand(5, 2, 2)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in connector.parameters())
    assert isinstance(connector.norm, nn.BatchNorm2d)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(
        ValueError, match=r'^in_channels: expected a map \(N, 3, H, W\), got \(4, 2, 1, 1\)'
    ):
        OverhaulConnector(3, 5)(torch.randn(4, 2, 1, 1))
    with pytest.raises(ValueError, match=r'^in_channels: expected an integer >= 1, got 0'):
        OverhaulConnector(0, 5)
    with pytest.raises(ValueError, match=r'^out_channels: expected an integer >= 1, got -1'):
        OverhaulConnector(3, -1)
