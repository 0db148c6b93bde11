"""The shallow network: layers of the paper, its factored layer, and what it refuses."""

from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models.backbones import ShallowMimicNet

FULLY_CONNECTED: dict[str, Any] = dict(hidden_channels=24, in_channels=2, input_size=(9, 7))
CONVOLUTIONAL: dict[str, Any] = dict(
    hidden_channels=24, in_channels=2, input_size=(9, 7), conv_channels=3, kernel_size=3
)
#: Arguments, and the entries D of the vector behind the stem: 9x7 is pooled to 4x3.
NETWORKS = [
    pytest.param(dict(arguments, bottleneck_channels=k), inputs, id=f'{name}-{k}')
    for name, arguments, inputs in (
        ('pixels', FULLY_CONNECTED, 2 * 9 * 7),
        ('convolution', CONVOLUTIONAL, 3 * 4 * 3),
    )
    for k in (None, 5)
]
every_network = pytest.mark.parametrize(('arguments', 'inputs'), NETWORKS)


def layer(net: ShallowMimicNet, path: str) -> Any:
    return net.get_submodule(path)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 2, 9, 7)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@every_network
def test_shallow_net_has_the_parameters_of_the_formula(
    arguments: dict[str, Any], inputs: int
) -> None:
    hidden, k = arguments['hidden_channels'], arguments['bottleneck_channels']
    stem = 3 * (9 * 2 + 1) if 'conv_channels' in arguments else 0
    wide = hidden * (inputs + 1) if k is None else k * inputs + hidden * (k + 1)
    assert parameters(ShallowMimicNet(**arguments)) == stem + wide


def test_shallow_net_bottleneck_saves_parameters_below_its_bound() -> None:
    hidden, inputs = 60, 2 * 9 * 7  # H D / (H + D) = 40.6
    whole, *factored = (
        parameters(ShallowMimicNet(hidden, k, in_channels=2, input_size=(9, 7)))
        for k in (None, 40, 41)
    )
    assert 40 < hidden * inputs / (hidden + inputs) < 41
    assert factored[0] < whole < factored[1]


@every_network
def test_shallow_net_equals_its_equation(arguments: dict[str, Any], inputs: int) -> None:
    net, x = ShallowMimicNet(**arguments), images()
    outputs = net(x)
    if 'conv_channels' in arguments:
        conv = layer(net, 'stem.conv')
        x = F.max_pool2d(F.conv2d(x, conv.weight, conv.bias, padding=1).relu(), 3, stride=2)
    x = x.reshape(4, inputs)
    if arguments['bottleneck_channels'] is not None:
        x = x @ layer(net, 'bottleneck').weight.T
    linear = layer(net, 'hidden.linear')
    expected = (x @ linear.weight.T + linear.bias).clamp_min(0)
    assert isinstance(outputs, tuple) and len(outputs) == 1
    torch.testing.assert_close(outputs[0], expected)


@pytest.mark.parametrize('arguments', [FULLY_CONNECTED, CONVOLUTIONAL], ids=['pixels', 'conv'])
def test_shallow_net_equals_the_unfactored_one_with_the_product(arguments: dict[str, Any]) -> None:
    factored = ShallowMimicNet(**arguments, bottleneck_channels=5)
    whole = ShallowMimicNet(**arguments)
    state = factored.state_dict()
    product = state['hidden.linear.weight'] @ state.pop('bottleneck.weight')
    assert torch.linalg.matrix_rank(product) == 5
    whole.load_state_dict({**state, 'hidden.linear.weight': product})
    x = images()
    torch.testing.assert_close(factored(x)[0], whole(x)[0], rtol=1e-4, atol=1e-5)


def test_shallow_net_bottleneck_is_linear_and_the_wide_layer_is_not() -> None:
    net = ShallowMimicNet(**FULLY_CONNECTED, bottleneck_channels=5)
    seen: dict[str, list[Tensor]] = {'bottleneck': [], 'hidden': []}
    for name, found in seen.items():
        layer(net, name).register_forward_hook(lambda module, args, out, to=found: to.append(out))
    a, b = images(), images()
    for x in (a, b, 2 * a - 3 * b):
        net(x)
    first, second, mixed = seen['bottleneck']
    torch.testing.assert_close(mixed, 2 * first - 3 * second, rtol=1e-4, atol=1e-5)
    assert first.min() < 0, 'it is not rectified'
    first, second, mixed = seen['hidden']
    assert not torch.allclose(mixed, 2 * first - 3 * second, atol=1e-2)


@every_network
def test_shallow_net_parts_can_be_tapped(arguments: dict[str, Any], inputs: int) -> None:
    net = ShallowMimicNet(**arguments)
    seen: dict[str, Tensor] = {}
    for name in ('stem', 'bottleneck', 'hidden', 'hidden.linear'):
        layer(net, name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: out})
        )
    [feature] = net(images())
    assert seen['hidden'] is feature and feature.shape == (4, 24)
    assert torch.equal(seen['hidden.linear'].relu(), feature)
    assert seen['hidden.linear'].min() < 0
    assert seen['stem'].flatten(1).shape == (4, inputs)
    assert seen['bottleneck'].shape == (4, arguments['bottleneck_channels'] or inputs)
    assert {name for name, tensor in seen.items() if tensor._version} == set()


def test_shallow_net_of_30000_units_has_70_million_parameters() -> None:
    with torch.device('meta'):  # counted, not allocated
        net = ShallowMimicNet(30_000, 1200, 128)
    # 15x15 behind the pooling: 128 * 75 + 128, 28,800 * 1,200, 30,000 * 1,201.
    assert parameters(net) == 9_728 + 34_560_000 + 36_030_000


@every_network
def test_shallow_net_init_weights_keeps_the_scale(arguments: dict[str, Any], inputs: int) -> None:
    torch.manual_seed(0)
    net = ShallowMimicNet(**{**arguments, 'hidden_channels': 2000, 'input_size': (28, 26)})
    net.init_weights()
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            gain = 1 if name == 'bottleneck' else 2
            expected = (gain / module.in_features) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.bias is None or not module.bias.any()
    if 'conv_channels' not in arguments:
        [feature] = net(torch.randn(500, 2, 28, 26))
        # A mean square of 1 stays 1: half of the units are off, the others double it.
        assert feature.square().mean().item() == pytest.approx(1.0, rel=0.3)


@every_network
def test_shallow_net_in_a_stock_classifier_uses_every_parameter(
    arguments: dict[str, Any], inputs: int
) -> None:
    pytest.importorskip('mmpretrain.models')
    from mmpretrain.structures import DataSample

    model = ROOT_MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(arguments, type='mmkd_plugin.ShallowMimicNet'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=24),
        )
    )
    model.init_weights()
    samples = [DataSample().set_gt_label(label) for label in (3, 7, 1, 0)]
    model(images(), samples, mode='loss')['loss'].backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []
    assert model.eval()(images(), mode='predict')[0].pred_score.shape == (10,)


@every_network
def test_shallow_net_of_other_precision_and_memory_layout(
    arguments: dict[str, Any], inputs: int
) -> None:
    net, x = ShallowMimicNet(**arguments), images()
    [expected] = net(x)
    for other in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT):
        assert not other.is_contiguous()
        torch.testing.assert_close(net(other)[0], expected)
    with torch.autocast('cpu', torch.bfloat16):
        assert net(x)[0].dtype == torch.bfloat16
    [half] = net.half()(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize('shape', [(2, 7, 9), (3, 9, 7), (1, 9, 7), (2, 10, 7), (126,)])
@pytest.mark.parametrize('arguments', [FULLY_CONNECTED, CONVOLUTIONAL], ids=['pixels', 'conv'])
def test_shallow_net_images_of_another_shape_are_refused(
    arguments: dict[str, Any], shape: tuple[int, ...]
) -> None:
    net = ShallowMimicNet(**arguments)
    with raises_config_error('ShallowMimicNet.input_size', shape, '(2, 9, 7)', fix='in_channels'):
        net(torch.zeros(2, *shape))


@pytest.mark.parametrize(
    ('key', 'value', 'mention'),
    [
        *((key, bad, '>= 1') for key in ('hidden_channels', 'in_channels') for bad in (0, 1.5)),
        *(('bottleneck_channels', bad, '>= 1') for bad in (0, -3, '5', True)),
        *((key, 0, '>= 1') for key in ('conv_channels', 'kernel_size', 'pool_size', 'pool_stride')),
        *(('input_size', bad, 'pair') for bad in (0, (9,), (9, 7, 1), (9, 0), 'ab', 9.0, None)),
        ('kernel_size', 4, 'odd'),
        ('pool_size', 8, '7'),
    ],
)
def test_shallow_net_option_out_of_range_is_refused(key: str, value: Any, mention: str) -> None:
    with raises_config_error(f'ShallowMimicNet.{key}', value, mention):
        ShallowMimicNet(**{**CONVOLUTIONAL, key: value})
