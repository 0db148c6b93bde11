from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models.backbones import CifarWideResNet


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def derived(depth: int, k: int) -> int:
    """Count by hand, with a head of 10 classes.

    A normalisation precedes each convolution but the stem, and one precedes the head.
    """
    n, widths = (depth - 4) // 6, (16, 16 * k, 32 * k, 64 * k)
    total = 9 * 3 * 16
    for a, b in pairwise(widths):
        first = 2 * a + 9 * a * b + 2 * b + 9 * b * b + (a * b if a != b else 0)
        total += first + (n - 1) * 2 * (2 * b + 9 * b * b)
    return total + 2 * widths[-1] + 10 * widths[-1] + 10


# In millions, by Zagoruyko & Komodakis: Attention Transfer, table 1 (the first four), and Wide
# Residual Networks, table 4. Neither lists WRN-46-4, the pair of Huang et al.; it follows from the
# same sum.
@pytest.mark.parametrize(
    ('depth', 'k', 'exact', 'papers'),
    [
        (16, 1, 175_066, 0.2),
        (16, 2, 691_674, 0.7),
        (40, 1, 563_930, 0.6),
        (40, 2, 2_243_546, 2.2),
        (40, 4, 8_949_210, 8.9),
        (16, 8, 10_961_370, 11.0),
        (28, 10, 36_479_194, 36.5),
        (46, 4, 10_499_290, None),
    ],
)
def test_wide_resnet_has_the_parameters_of_the_papers(
    depth: int, k: int, exact: int, papers: float | None
) -> None:
    with torch.device('meta'):  # counted, not allocated
        counted = parameters(CifarWideResNet(depth, k)) + parameters(nn.Linear(64 * k, 10))
    assert counted == derived(depth, k) == exact
    assert papers is None or counted / 1e6 == pytest.approx(papers, abs=0.051)


def test_wide_resnet_depth_counts_convolutions() -> None:
    # The paper's 6n + 4 counts convolutions: the stem, two in each of 3n blocks, and the three
    # shortcuts between widths.
    net = CifarWideResNet(16, 2)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len([module for module in convolutions if module.kernel_size == (3, 3)]) == 1 + 6 * 2
    assert len([module for module in convolutions if module.kernel_size == (1, 1)]) == 3


def test_wide_resnet_has_shortcuts_only_between_sizes() -> None:
    # At k = 1 the first stage is as wide as the stem.
    shortcuts = {
        k: [name for name, _ in CifarWideResNet(16, k).named_modules() if name.endswith('shortcut')]
        for k in (1, 2)
    }
    assert shortcuts == {
        1: ['layer2.0.shortcut', 'layer3.0.shortcut'],
        2: ['layer1.0.shortcut', 'layer2.0.shortcut', 'layer3.0.shortcut'],
    }


def test_wide_resnet_block_equals_its_equation() -> None:
    net = CifarWideResNet(10, 1).eval()
    x = torch.randn(2, 16, 8, 8)
    for name in ('layer1.0', 'layer2.0'):  # the identity, and a convolution of the activated input
        block: Any = net.get_submodule(name)
        nn.init.normal_(block.bn1.running_mean)
        nn.init.uniform_(block.bn2.weight)
        active = F.relu(block.bn1(x))
        expected = block.conv2(F.relu(block.bn2(block.conv1(active))))
        expected += x if name == 'layer1.0' else F.conv2d(active, block.shortcut.weight, stride=2)
        assert torch.equal(block(x), expected)


def test_wide_resnet_maps_before_the_relu_can_be_tapped() -> None:
    net = CifarWideResNet(10, 2, out_indices=(0, 1, 2)).eval()
    seen: dict[str, Tensor] = {}
    # A normalisation's output is the input of the ReLU behind it; each runs once.
    for name in ('layer2.0.bn1', 'layer3.0.bn1', 'norm'):
        net.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: out})
        )
    for name in ('layer2.0.relu1', 'layer3.0.relu1', 'relu'):
        net.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0]})
        )
    maps = net(torch.randn(1, 3, 16, 16))
    for normalised, activation in (
        ('layer2.0.bn1', 'layer2.0.relu1'),
        ('layer3.0.bn1', 'layer3.0.relu1'),
    ):
        assert seen[normalised] is seen[activation]
    assert seen['norm'] is seen['relu']
    assert {name: tensor._version for name, tensor in seen.items() if tensor._version} == {}, (
        'none is changed in place'
    )
    assert torch.equal(seen['norm'].relu(), maps[2])
    assert seen['norm'].min() < 0
    assert torch.equal(net.get_submodule('layer2.0.bn1')(maps[0]), seen['layer2.0.bn1'])


def test_wide_resnet_dropout_acts_between_the_convolutions_in_training_only() -> None:
    net, x = CifarWideResNet(10, 1, dropout=0.5), torch.randn(1, 3, 8, 8)
    assert not torch.equal(net(x)[0], net(x)[0])
    net.eval()
    assert torch.equal(net(x)[0], net(x)[0])
    block: Any = net.get_submodule('layer1.0').train()
    shares = []
    block.conv2.register_forward_pre_hook(
        lambda module, args: shares.append((args[0] == 0).float().mean().item())
    )
    block.bn2.eval().bias.data.fill_(9.0)  # no zero is ReLU's
    block(torch.randn(8, 16, 8, 8))
    assert shares == [pytest.approx(0.5, abs=0.03)]
