from typing import Any

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

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


# By hand for VGG-13, in units of 64 * 64 weights: 3/64 + 1 + 2 + 4 + 8 + 16 + 32 + 64 + 64 + 64 of 3x3, that is 9,402,048
# weights; twice 2,944 for the normalisations; 5,130 in the head.
@pytest.mark.parametrize(
    ('depth', 'exact'), [(11, 9_228_362), (13, 9_413_066), (16, 14_724_042), (19, 20_035_018)]
)
def test_parameters(depth: int, exact: int) -> None:
    widths = [int(width) for width in PAPER[depth].replace('M', '').split()]
    convolutions = sum(9 * a * b for a, b in zip([3, *widths], widths, strict=False))
    with torch.device('meta'):  # counted, not allocated
        plain = parameters(CifarVGG(depth, batch_norm=False))
        counted = parameters(CifarVGG(depth)) + parameters(nn.Linear(512, 10))
    assert counted == convolutions + 2 * sum(widths) + 5130 == exact
    assert plain == convolutions + sum(widths), 'a bias in place of scale and shift'


def test_depth_counts_three_linear_layers() -> None:
    for depth in PAPER:
        with torch.device('meta'):
            net = CifarVGG(depth)
        assert (
            len([module for module in net.modules() if isinstance(module, nn.Conv2d)]) == depth - 3
        )


@pytest.mark.parametrize('batch_norm', [True, False])
def test_maps_halve_and_widen(batch_norm: bool) -> None:
    net = CifarVGG(
        11, in_channels=1, base_channels=4, batch_norm=batch_norm, out_indices=(0, 1, 2, 3, 4)
    )
    maps = net(torch.randn(2, 1, 32, 32))
    assert [tuple(m.shape) for m in maps] == [
        (2, 4, 32, 32),
        (2, 8, 16, 16),
        (2, 16, 8, 8),
        (2, 32, 4, 4),
        (2, 32, 2, 2),
    ]
    assert all(m.min() >= 0 for m in maps), 'a stage ends with ReLU'


def test_against_torchvisions_layers() -> None:
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
def test_maps_before_and_after_the_last_relu_can_be_tapped(batch_norm: bool) -> None:
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


def test_only_the_stages_in_use_are_built() -> None:
    net = CifarVGG(16, base_channels=4, out_indices=(1,))
    assert not hasattr(net, 'layer3')
    [second] = net(torch.randn(1, 3, 8, 8))
    assert second.shape == (1, 8, 4, 4)


def test_initialisation_is_kaimings() -> None:
    torch.manual_seed(0)
    net = CifarVGG(13, base_channels=16, batch_norm=False)
    net.init_weights()
    convolution = net.get_submodule('layer5.1.conv')
    # 128 maps of 3x3 come from each input.
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    assert not convolution.bias.any()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(depth=8), r'^CifarVGG.depth: expected one of \(11, 13, 16, 19\), got 8'),
        (
            dict(out_indices=(5,)),
            r'^CifarVGG.out_indices: expected some of \(0, 1, 2, 3, 4\), got \(5,\)',
        ),
        (
            dict(out_indices=()),
            r'^CifarVGG.out_indices: expected some of \(0, 1, 2, 3, 4\), got \(\)',
        ),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CifarVGG(**options)


@pytest.mark.parametrize('batch_norm', [True, False])
def test_serves_a_stock_classifier_and_leaves_no_parameter_unused(batch_norm: bool) -> None:
    pytest.importorskip('mmpretrain.models')
    from mmpretrain.structures import DataSample

    model = ROOT_MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type='mmkd_plugin.CifarVGG', depth=13, base_channels=8, batch_norm=batch_norm
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
        )
    )
    model.init_weights()
    samples = [DataSample().set_gt_label(label) for label in (3, 7)]
    images = torch.randn(2, 3, 32, 32)
    loss = model(images, samples, mode='loss')['loss']
    loss.backward()
    # DistributedDataParallel stops at a parameter that the loss does not reach.
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []
    prediction = model.eval()(images, mode='predict')
    assert prediction[0].pred_score.shape == (10,)
    # The head reads the mean of the last map.
    scores = F.linear(
        model.backbone(images)[0].mean((2, 3)), model.head.fc.weight, model.head.fc.bias
    )
    assert torch.allclose(model(images, mode='tensor'), scores, atol=1e-6)
