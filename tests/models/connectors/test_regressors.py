import pytest
import torch
from helpers.errors import raises_config_error
from torch.nn import functional as F

from mmkd_plugin.models.connectors import HintRegressor, OverhaulConnector


def test_hint_regressor_is_one_layer_with_bias() -> None:
    regressor = HintRegressor(3, 5)
    assert {name: p.shape for name, p in regressor.named_parameters()} == {
        'weight': (5, 3),
        'bias': (5,),
    }
    x = torch.randn(2, 3, 4, 4)
    expected = torch.einsum('oc,nchw->nohw', regressor.weight, x) + regressor.bias.view(5, 1, 1)
    torch.testing.assert_close(regressor(x), expected)
    torch.testing.assert_close(regressor(x[:, :, 0, 0]), expected[:, :, 0, 0])


def test_hint_regressor_pooling_first_equals_pooling_last() -> None:
    regressor, features = HintRegressor(3, 5), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(
        regressor(features, (4, 4)), F.adaptive_avg_pool2d(regressor(features), 4)
    )
    assert regressor(features, (16, 4)).shape == (2, 5, 8, 4), 'a map is never enlarged'


def test_hint_regressor_of_several_widths_uses_the_first_columns_for_a_narrow_map() -> None:
    regressor = HintRegressor([2, 4], 3)
    assert regressor.weight.shape == (3, 4)
    narrow = torch.randn(6, 2)
    torch.testing.assert_close(
        regressor(narrow), narrow @ regressor.weight[:, :2].T + regressor.bias
    )
    regressor(narrow).sum().backward()
    assert regressor.weight.grad[:, 2:].abs().sum() == 0, 'yet in the graph, as DDP requires'


def test_hint_regressor_of_several_widths_names_them_all() -> None:
    with raises_config_error('in_channels', (6, 3, 1, 1), 'C = 2 or 4'):
        HintRegressor([4, 2], 3)(torch.randn(6, 3, 1, 1))


@pytest.mark.parametrize('widths', [[], ['a'], 'a', None])
def test_hint_regressor_without_widths_is_refused(widths: object) -> None:
    with raises_config_error('in_channels'):
        HintRegressor(widths, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('features', 'size'), [((2, 3), (4, 4)), ((2, 3, 4, 4), ()), ((2, 3, 4, 4), (4,))]
)
def test_hint_regressor_between_a_map_and_a_vector_is_refused(
    features: tuple[int, ...], size: tuple[int, ...]
) -> None:
    regressor = HintRegressor(3, 5)
    with pytest.raises(ValueError, match=r'^HintRegressor: .*a map needs a map') as caught:
        regressor(torch.randn(features), size)
    assert str(features) in str(caught.value) and str(size) in str(caught.value)
    assert regressor(torch.randn(features), features[2:]).shape == (2, 5, *features[2:])


def test_overhaul_connector_is_a_linear_map_of_channels_then_batch_norm() -> None:
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


def test_overhaul_connector_starts_by_hes_rule_of_outgoing_connections() -> None:
    torch.manual_seed(0)
    weight = OverhaulConnector(256, 128).convolution.weight
    assert weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
