import pytest
import torch

from mmkd_plugin.models.connectors import HintRegressor


def test_a_single_layer_from_channels_to_channels() -> None:
    regressor = HintRegressor(3, 5)
    assert sum(p.numel() for p in regressor.parameters()) == 5 * 3 + 5
    assert regressor(torch.randn(2, 3, 4, 4)).shape == (2, 5, 4, 4)
    assert regressor(torch.randn(2, 3)).shape == (2, 5)


def test_pooling_first_gives_the_same_as_pooling_last() -> None:
    regressor, features = HintRegressor(3, 5), torch.randn(2, 3, 8, 8)
    small = regressor(features, (4, 4))
    torch.testing.assert_close(
        small, torch.nn.functional.adaptive_avg_pool2d(regressor(features), 4)
    )
    assert regressor(features, (16, 4)).shape == (2, 5, 8, 4)  # a map is never enlarged


def test_of_several_widths_the_narrower_uses_the_first_columns() -> None:
    regressor = HintRegressor([2, 4], 3)
    assert regressor.weight.shape == (3, 4)
    narrow = torch.randn(6, 2)
    torch.testing.assert_close(
        regressor(narrow), narrow @ regressor.weight[:, :2].T + regressor.bias
    )
    regressor(narrow).sum().backward()
    assert regressor.weight.grad[:, 2:].abs().sum() == 0  # in the graph all the same: DDP wants it


def test_other_channels_are_named() -> None:
    with pytest.raises(
        ValueError,
        match=r'^in_channels: expected features .* with C of \[2, 4\], got \(6, 3, 1, 1\)',
    ):
        HintRegressor([2, 4], 3)(torch.randn(6, 3, 1, 1))
