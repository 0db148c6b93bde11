from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models.backbones import CifarResNet


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convolution(in_channels: int, channels: int, size: int = 3) -> int:
    """Weights of a convolution without bias, and scale and shift of the normalisation behind it."""
    return size * size * in_channels * channels + 2 * channels


# By hand, for n blocks a stage: the stem; 2n convolutions of 16; one 16 -> 32 and 2n - 1 of 32; one
# 32 -> 64 and 2n - 1 of 64; a head of 64 * 10 + 10. The paper's table 6 gives them in millions:
# 0.27, 0.46, 0.66, 0.85, 1.7.
@pytest.mark.parametrize(
    ('depth', 'exact', 'paper'),
    [
        (20, 269_722, 0.27),
        (32, 464_154, 0.46),
        (44, 658_586, 0.66),
        (56, 853_018, 0.85),
        (110, 1_727_962, 1.7),
    ],
)
def test_resnet_has_the_parameters_of_the_paper(depth: int, exact: int, paper: float) -> None:
    n = (depth - 2) // 6
    stages = [(16, 16), (16, 32), (32, 64)]
    derived = (
        convolution(3, 16)
        + sum(convolution(a, b) + (2 * n - 1) * convolution(b, b) for a, b in stages)
        + 650
    )
    counted = parameters(CifarResNet(depth)) + parameters(nn.Linear(64, 10))
    assert counted == derived == exact
    assert counted / 1e6 == pytest.approx(paper, abs=0.03)


def test_resnet_projection_shortcuts_add_two_convolutions() -> None:
    added = parameters(CifarResNet(20, shortcut='conv')) - parameters(CifarResNet(20))
    assert added == convolution(16, 32, size=1) + convolution(32, 64, size=1)


def test_resnet_of_the_studies_has_the_parameters_by_hand() -> None:
    # Widths 8, 16, 32 with projections, one channel in, ten classes out.
    student = CifarResNet(8, in_channels=1, base_channels=8, stem_stride=2, shortcut='conv')
    assert parameters(student) + parameters(nn.Linear(32, 10)) == 19_810


@pytest.mark.parametrize('shortcut', ['pad', 'conv'])
def test_resnet_on_odd_sizes_joins_maps_of_one_size(shortcut: str) -> None:
    net = CifarResNet(14, in_channels=1, stem_stride=2, shortcut=shortcut, out_indices=(0, 1, 2))
    maps = net(torch.randn(2, 1, 28, 26))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 14, 13), (2, 32, 7, 7), (2, 64, 4, 4)]


def test_resnet_map_before_the_last_relu_can_be_tapped() -> None:
    net = CifarResNet(8, out_indices=(0, 1, 2)).eval()
    seen: dict[str, Tensor] = {}
    for name in ('layer1', 'layer2', 'layer3'):
        activation = net.get_submodule(f'{name}.0.relu2')
        activation.register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0]})
        )
    maps = net(torch.randn(1, 3, 32, 32))
    for name, expected in zip(('layer1', 'layer2', 'layer3'), maps, strict=True):
        assert torch.equal(seen[name].relu(), expected)
        assert seen[name].min() < 0
        assert seen[name]._version == 0, 'it is not changed in place'


def test_resnet_block_equals_its_equation() -> None:
    block: Any = CifarResNet(8).get_submodule('layer2.0')
    x = torch.randn(2, 16, 8, 8)
    residual = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), F.relu(residual + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))))
    assert not [name for name in block.state_dict() if 'relu' in name], 'older checkpoints load'


def test_resnet_padding_shortcut_keeps_the_image_between_zeros() -> None:
    # With both convolutions off, a block is the ReLU of its shortcut: every second pixel, in the
    # middle channels.
    net = CifarResNet(8, base_channels=4)
    block = net.get_submodule('layer2')[0].eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any() and not out[:, 6:].any()


# By hand, for n blocks a stage: the stem of 32; in each stage the first convolution, 2n - 1 others,
# and a 1x1 shortcut; a head of 256 * 100 + 100. Both are known as 1.23 M and 7.43 M.
@pytest.mark.parametrize(('depth', 'exact'), [(8, 1_233_540), (32, 7_433_860)])
def test_resnet_x4_has_a_narrow_stem_and_the_known_parameters(depth: int, exact: int) -> None:
    n = (depth - 2) // 6
    derived = convolution(3, 32) + 25_700
    for before, width in ((32, 64), (64, 128), (128, 256)):
        derived += convolution(before, width) + (2 * n - 1) * convolution(width, width)
        derived += convolution(before, width, size=1)
    net = CifarResNet(depth, base_channels=64, stem_channels=32, shortcut='conv')
    assert parameters(net) + 25_700 == derived == exact
    assert net(torch.rand(1, 3, 32, 32))[0].shape == (1, 256, 8, 8)
    with raises_config_error('CifarResNet.stem_channels', 0):
        CifarResNet(8, stem_channels=0)
