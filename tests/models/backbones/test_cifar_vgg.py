import pytest
import torch
from torch import Tensor, nn

from mmkd_plugin.models.backbones import CifarVGG

# Table 1 of the paper, columns A, B, D and E, without the linear layers; M is a pooling.
PAPER = {
    11: '64 M 128 M 256 256 M 512 512 M 512 512',
    13: '64 64 M 128 128 M 256 256 M 512 512 M 512 512',
    16: '64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512',
    19: '64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512',
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# By hand for VGG-13, in units of 64 * 64 weights: 3/64 + 1 + 2 + 4 + 8 + 16 + 32 + 64 + 64 + 64 of
# 3x3, that is 9,402,048 weights; twice 2,944 for the normalisations; 5,130 in the head.
@pytest.mark.parametrize(
    ('depth', 'exact'), [(11, 9_228_362), (13, 9_413_066), (16, 14_724_042), (19, 20_035_018)]
)
def test_vgg_has_the_parameters_of_the_paper(depth: int, exact: int) -> None:
    widths = [int(width) for width in PAPER[depth].replace('M', '').split()]
    convolutions = sum(9 * a * b for a, b in zip([3, *widths], widths, strict=False))
    with torch.device('meta'):  # counted, not allocated
        plain = parameters(CifarVGG(depth, batch_norm=False))
        counted = parameters(CifarVGG(depth)) + parameters(nn.Linear(512, 10))
    assert counted == convolutions + 2 * sum(widths) + 5130 == exact
    assert plain == convolutions + sum(widths), 'a bias in place of scale and shift'


def test_vgg_depth_counts_three_linear_layers() -> None:
    for depth in PAPER:
        with torch.device('meta'):
            net = CifarVGG(depth)
        assert (
            len([module for module in net.modules() if isinstance(module, nn.Conv2d)]) == depth - 3
        )


def test_vgg_equals_the_layers_of_the_paper_in_a_row() -> None:
    # The same layers in a row, as in the paper's table, with this network's weights in their order.
    net = CifarVGG(13, base_channels=8).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.weight)
    layers: list[nn.Module] = []
    channels = 3
    for word in PAPER[13].split():
        if word == 'M':
            layers.append(nn.MaxPool2d(2))
            continue
        width = int(word) // 8
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    plain = nn.Sequential(*layers).eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), net.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x)[0], plain(x))


@pytest.mark.parametrize('batch_norm', [True, False])
def test_vgg_maps_before_and_after_the_last_relu_can_be_tapped(batch_norm: bool) -> None:
    net = CifarVGG(13, base_channels=4, batch_norm=batch_norm, out_indices=(2, 4))
    seen: dict[str, Tensor] = {}
    for name in ('layer3', 'layer5'):
        net.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: out})
        )
        net.get_submodule(f'{name}.1.relu').register_forward_pre_hook(
            lambda module, args, name=name: seen.update({f'{name} before': args[0]})
        )
    maps = net(torch.randn(2, 3, 16, 16))
    for name, expected in zip(('layer3', 'layer5'), maps, strict=True):
        assert seen[name] is expected
        assert torch.equal(seen[f'{name} before'].relu(), expected)
        assert seen[f'{name} before'].min() < 0
        assert seen[name]._version == seen[f'{name} before']._version == 0, (
            'neither is changed in place'
        )
