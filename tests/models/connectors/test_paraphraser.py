from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from torch import nn
from torch.nn import functional as F

from mmkd_plugin.models.connectors import FactorEncoder, Paraphraser
from mmkd_plugin.registry import MODELS, SCOPE


def convolutions(module: nn.Module) -> list[tuple[str, int, int]]:
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    found = [m for m in module.modules() if isinstance(m, kinds)]
    assert all((m.kernel_size, m.stride, m.padding) == ((3, 3), (1, 1), (1, 1)) for m in found)
    return [(type(m).__name__, m.in_channels, m.out_channels) for m in found]


def test_paraphraser_has_the_layers_of_the_papers() -> None:
    paraphraser = Paraphraser(6, 4)
    assert convolutions(paraphraser.encoder) == [
        ('Conv2d', 6, 6),
        ('Conv2d', 6, 4),
        ('Conv2d', 4, 4),
    ]
    transposed = 'ConvTranspose2d'
    assert convolutions(paraphraser.decoder) == [
        (transposed, 4, 4),
        (transposed, 4, 6),
        (transposed, 6, 6),
    ]
    kinds = [type(layer) for layer in (*paraphraser.encoder.layers, *paraphraser.decoder)]
    assert kinds == 3 * [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] + 3 * [
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
        nn.LeakyReLU,
    ]
    assert {m.negative_slope for m in paraphraser.modules() if isinstance(m, nn.LeakyReLU)} == {0.1}
    names = [
        name
        for name, _ in paraphraser.named_parameters()
        if name.endswith(('0.bias', '3.bias', '6.bias'))
    ]
    assert not names, 'BatchNorm has the bias'


def test_paraphraser_forward_decodes_the_encoded_map() -> None:
    paraphraser, feature = Paraphraser(6, 4).eval(), torch.randn(3, 6, 5, 7)
    factor = paraphraser.encode(feature)
    assert factor.shape == (3, 4, 5, 7)
    reconstruction = paraphraser(feature)
    assert reconstruction.shape == feature.shape
    assert torch.equal(reconstruction, paraphraser.decode(factor))


def test_factor_encoder_without_norm_is_the_translator_of_factor_transfer() -> None:
    encoder, x = FactorEncoder(5, 3, norm=None), torch.randn(2, 5, 4, 4)
    expected = x
    for layer in (encoder.layers[0], encoder.layers[2], encoder.layers[4]):
        assert layer.bias is not None
        expected = F.leaky_relu(F.conv2d(expected, layer.weight, layer.bias, padding=1), 0.1)
    torch.testing.assert_close(encoder(x), expected)
    assert len(encoder.layers) == 6


@pytest.mark.parametrize(
    ('channels', 'arguments', 'factor'),
    [
        (64, dict(), 32),
        (64, dict(factor_rate=0.75), 48),
        (64, dict(factor_rate=2), 128),
        (64, dict(factor_channels=7), 7),
        (64, dict(factor_channels=7, factor_rate=0.9), 7),
        (5, dict(factor_rate=0.7), 4),  # 3.5
        (1, dict(factor_rate=0.1), 1),
    ],
)
def test_paraphraser_factor_channels_follow_from_rate_or_number(
    channels: int, arguments: dict[str, Any], factor: int
) -> None:
    paraphraser = Paraphraser(channels, **arguments)
    assert paraphraser.factor_channels == factor
    assert paraphraser.encode(torch.randn(1, channels, 2, 2)).shape == (1, factor, 2, 2)


@pytest.mark.parametrize('transposed', [True, False])
@pytest.mark.parametrize('last', ['leaky_relu', 'linear'])
@pytest.mark.parametrize('norm', ['bn', 'gn', 'none', None])
def test_paraphraser_of_every_form_trains_every_parameter(
    norm: str | None, last: str, transposed: bool
) -> None:
    paraphraser, feature = (
        Paraphraser(6, 4, norm=norm, last=last, transposed=transposed),
        torch.randn(1, 6, 4, 4),
    )
    before = feature.clone()
    reconstruction = paraphraser(feature)
    assert reconstruction.shape == feature.shape
    F.mse_loss(reconstruction, feature).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in paraphraser.parameters())
    assert torch.equal(feature, before), 'the map itself stays'
    kinds = {type(m) for m in paraphraser.modules()}
    assert (nn.BatchNorm2d in kinds, nn.GroupNorm in kinds) == (norm == 'bn', norm == 'gn')
    assert (nn.ConvTranspose2d in kinds) == transposed


@pytest.mark.parametrize('norm', ['bn', 'gn', None])
def test_paraphraser_with_a_linear_end_reaches_negative_values(
    norm: str | None,
) -> None:
    """Its last layer is a convolution with a bias and nothing behind it."""
    paraphraser = Paraphraser(4, norm=norm, last='linear')
    assert isinstance(paraphraser.decoder[-1], nn.ConvTranspose2d)
    nn.init.zeros_(paraphraser.decoder[-1].weight)
    nn.init.constant_(paraphraser.decoder[-1].bias, -3.0)
    assert paraphraser(torch.randn(2, 4, 3, 3)).unique().tolist() == [-3.0]


def test_paraphraser_with_transposed_convolutions_expresses_what_plain_ones_do() -> None:
    """Stride 1, padding 1: the kernel turned by 180 degrees, its channels swapped."""
    plain, turned = Paraphraser(6, 4, transposed=False).eval(), Paraphraser(6, 4).eval()
    state = plain.state_dict()
    for name, value in state.items():
        if name.startswith('decoder') and value.ndim == 4:
            state[name] = value.transpose(0, 1).flip(2, 3)
    turned.load_state_dict(state)
    feature = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(turned(feature), plain(feature))


@pytest.mark.parametrize('transposed', [True, False])
def test_paraphraser_without_norm_starts_at_the_scale_of_its_input(transposed: bool) -> None:
    # He's rule keeps the second moment from layer to layer. Six layers of 64 and 32 channels stray
    # by chance, and lose at the border. Torch's own start would give 3^-6: a third a layer.
    feature = torch.randn(8, 64, 16, 16).relu()
    ratios = [
        (
            Paraphraser(64, norm=None, transposed=transposed)(feature).square().mean()
            / feature.square().mean()
        ).item()
        for _ in range(4)
    ]
    assert 0.2 < sum(ratios) / len(ratios) < 2


def test_factor_encoder_groups_divide_any_number_of_channels() -> None:
    groups = [
        m.num_groups
        for c in (64, 48, 6, 7)
        for m in FactorEncoder(c, c, 'gn').layers
        if isinstance(m, nn.GroupNorm)
    ]
    assert groups == 3 * [32] + 3 * [16] + 3 * [2] + 3 * [1]


def test_factor_encoder_with_group_norm_is_independent_of_other_images() -> None:
    encoder, x = FactorEncoder(8, 4, 'gn'), torch.randn(3, 8, 4, 4)
    torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]))


@pytest.mark.parametrize('norm', ['bn', 'gn', None])
def test_paraphraser_on_constant_maps_and_single_images_gives_finite_gradients(
    norm: str | None,
) -> None:
    paraphraser = Paraphraser(4, norm=norm)
    for feature in (torch.zeros(1, 4, 3, 3), torch.ones(2, 4, 3, 3), torch.randn(1, 4, 1, 2)):
        paraphraser.zero_grad()
        reconstruction = paraphraser(feature)
        reconstruction.square().mean().backward()
        assert reconstruction.isfinite().all()
        assert all(p.grad.isfinite().all() for p in paraphraser.parameters())


def test_paraphraser_arguments_build_the_same_architecture() -> None:
    paraphraser = Paraphraser(10, factor_rate=0.3, norm=None, last='linear', transposed=False)
    like = Paraphraser(**paraphraser.arguments)
    like.load_state_dict(paraphraser.state_dict())
    feature = torch.randn(2, 10, 3, 3)
    assert torch.equal(like(feature), paraphraser(feature))


@pytest.mark.parametrize(
    ('arguments', 'key', 'mention'),
    [
        (dict(in_channels=8, factor_channels=0), 'factor_channels', 'an integer >= 1'),
        (dict(in_channels=8, factor_rate=0), 'factor_rate', 'a number > 0'),
        (dict(in_channels=8, factor_rate='0.5'), 'factor_rate', 'a number > 0'),
        (dict(in_channels=8, norm='in'), 'norm', "'bn', 'gn', 'none'"),
        (dict(in_channels=8, last='relu'), 'last', "'leaky_relu', 'linear'"),
    ],
)
def test_paraphraser_with_an_argument_out_of_range_is_refused(
    arguments: dict[str, Any], key: str, mention: str
) -> None:
    with raises_config_error(key, arguments[key], mention):
        Paraphraser(**arguments)


def test_paraphraser_from_a_config_takes_its_arguments() -> None:
    built = MODELS.build(
        dict(type='Paraphraser', in_channels=8, factor_rate=0.25, norm='gn', _scope_=SCOPE)
    )
    assert (built.in_channels, built.factor_channels) == (8, 2)
    assert built.arguments['norm'] == 'gn'


def test_paraphraser_with_a_factor_of_other_channels_is_refused() -> None:
    paraphraser = Paraphraser(8, 3)
    with raises_config_error('factor_channels', (2, 8, 3, 3), 'a map (N, 3, H, W)'):
        paraphraser.decode(torch.randn(2, 8, 3, 3))
    with raises_config_error('in_channels', (2, 8), 'a map (N, 8, H, W)'):
        paraphraser.encode(torch.randn(2, 8))
