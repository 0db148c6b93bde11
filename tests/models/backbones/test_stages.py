"""The behaviour that all backbones for small images share. A new one needs a line in each table."""

from typing import Any

import pytest
import torch
from helpers.errors import raises_config_error
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models import backbones
from mmkd_plugin.models.backbones.stages import StagedBackbone

# type and arguments, shapes of the maps of a 32x32 image with one channel
NETWORKS: list[tuple[dict[str, Any], list[tuple[int, int, int]]]] = [
    (
        dict(type='CifarMobileNet', widen_factor=0.25),
        [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)],
    ),
    (dict(type='CifarResNet', depth=14), [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
    (
        dict(type='CifarResNet', depth=8, base_channels=8, stem_stride=2, shortcut='conv'),
        [(8, 16, 16), (16, 8, 8), (32, 4, 4)],
    ),
    (
        dict(type='CifarVGG', depth=11, base_channels=4),
        [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (32, 2, 2)],
    ),
    (
        dict(type='CifarVGG', depth=13, base_channels=4, batch_norm=False),
        [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (32, 2, 2)],
    ),
    (
        dict(type='CifarWideResNet', depth=10, widen_factor=2),
        [(32, 32, 32), (64, 16, 16), (128, 8, 8)],
    ),
]


def built(config: dict[str, Any], **options: Any) -> StagedBackbone:
    arguments = {name: value for name, value in config.items() if name != 'type'}
    return getattr(backbones, config['type'])(**arguments, **options)


@pytest.mark.parametrize(('config', 'shapes'), NETWORKS)
def test_backbone_maps_halve_and_widen(
    config: dict[str, Any], shapes: list[tuple[int, int, int]]
) -> None:
    net = built(config, in_channels=1, out_indices=tuple(range(len(shapes))))
    maps = net(torch.randn(2, 1, 32, 32))
    assert [tuple(one.shape[1:]) for one in maps] == shapes
    assert maps[-1].min() >= 0, 'the last map follows a ReLU'
    bare_sums = config['type'] == 'CifarWideResNet'
    assert all((one.min() < 0) == bare_sums for one in maps[:-1])


@pytest.mark.parametrize(('config', 'shapes'), NETWORKS)
def test_backbone_returns_the_named_maps_in_the_order_of_the_stages(
    config: dict[str, Any], shapes: list[tuple[int, int, int]]
) -> None:
    last = len(shapes) - 1
    net = built(config, out_indices=(last, 0, last)).eval()
    maps = net(torch.randn(2, 3, 32, 32))
    assert [tuple(one.shape[1:]) for one in maps] == [shapes[0], shapes[last]]
    seen: list[Tensor] = []
    net.get_submodule('layer1').register_forward_hook(lambda module, args, out: seen.append(out))
    [first, _] = net(torch.randn(2, 3, 32, 32))
    assert first is seen[0], 'a stage is a module that gives the map'


@pytest.mark.parametrize(('config', 'shapes'), NETWORKS)
def test_backbone_builds_only_the_stages_in_use(
    config: dict[str, Any], shapes: list[tuple[int, int, int]]
) -> None:
    net = built(config, out_indices=(1,))
    assert hasattr(net, 'layer2') and not hasattr(net, 'layer3')
    [second] = net(torch.randn(1, 3, 32, 32))
    assert tuple(second.shape[1:]) == shapes[1] and second.min() >= 0


@pytest.mark.parametrize(('config', 'shapes'), NETWORKS)
@pytest.mark.parametrize('indices', [(), (-1,), (5,), (0, 7), 1, None])
def test_backbone_without_or_with_unknown_stages_is_refused(
    config: dict[str, Any], shapes: list[tuple[int, int, int]], indices: Any
) -> None:
    stages = str(tuple(range(len(shapes))))
    with raises_config_error(f'{config["type"]}.out_indices', indices, stages):
        built(config, out_indices=indices)


@pytest.mark.parametrize(
    ('config', 'argument', 'mention'),
    [
        *((dict(type='CifarResNet', depth=bad), 'depth', '6n + 2') for bad in (7, 2, 18)),
        *((dict(type='CifarWideResNet', depth=bad), 'depth', '6n + 4') for bad in (4, 12, 17, 20)),
        (dict(type='CifarResNet', depth=0), 'depth', 'integer'),
        (dict(type='CifarResNet', depth='20'), 'depth', 'integer'),
        (dict(type='CifarResNet', depth=20, shortcut='zeros'), 'shortcut', "'pad', 'conv'"),
        (dict(type='CifarResNet', depth=20, base_channels=0), 'base_channels', 'integer'),
        (dict(type='CifarResNet', depth=20, stem_stride=0), 'stem_stride', 'integer'),
        (dict(type='CifarVGG', depth=8), 'depth', '(11, 13, 16, 19)'),
        (dict(type='CifarVGG', base_channels=1.5), 'base_channels', 'integer'),
        (dict(type='CifarWideResNet', depth=16, widen_factor=0), 'widen_factor', 'integer'),
        (dict(type='CifarWideResNet', depth=16, widen_factor=1.5), 'widen_factor', 'integer'),
        (dict(type='CifarWideResNet', depth=16, dropout=1.0), 'dropout', '[0, 1)'),
        (dict(type='CifarWideResNet', depth=16, dropout=-0.1), 'dropout', '[0, 1)'),
        (dict(type='CifarWideResNet', depth=16, dropout='0.1'), 'dropout', '[0, 1)'),
        (dict(type='CifarMobileNet', widen_factor=0), 'widen_factor', 'number > 0'),
        (dict(type='CifarMobileNet', in_channels=0), 'in_channels', 'integer'),
    ],
)
def test_backbone_with_an_option_out_of_range_is_refused(
    config: dict[str, Any], argument: str, mention: str
) -> None:
    with raises_config_error(f'{config["type"]}.{argument}', config[argument], mention):
        built(config)


@pytest.mark.parametrize(('config', 'shapes'), NETWORKS)
def test_backbone_in_a_stock_classifier_uses_every_parameter(
    config: dict[str, Any], shapes: list[tuple[int, int, int]]
) -> None:
    pytest.importorskip('mmpretrain.models')
    from mmpretrain.structures import DataSample

    model = ROOT_MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone={**config, 'type': f'mmkd_plugin.{config["type"]}'},
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=shapes[-1][0]),
        )
    )
    model.init_weights()
    samples = [DataSample().set_gt_label(label) for label in (3, 7)]
    images = torch.randn(2, 3, 32, 32)
    model(images, samples, mode='loss')['loss'].backward()
    # DistributedDataParallel stops at a parameter that the loss does not reach.
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []
    prediction = model.eval()(images, mode='predict')
    assert prediction[0].pred_score.shape == (10,)
    scores = F.linear(
        model.backbone(images)[0].mean((2, 3)), model.head.fc.weight, model.head.fc.bias
    )
    assert torch.allclose(model(images, mode='tensor'), scores, atol=1e-6)


@pytest.mark.parametrize(('config', 'shapes'), NETWORKS)
def test_backbone_init_weights_follows_kaimings_rule(
    config: dict[str, Any], shapes: list[tuple[int, int, int]]
) -> None:
    torch.manual_seed(0)
    net = built(config)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
    weights = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 9000]
    assert weights
    for module in weights:
        # MMEngine's rule of the backward pass: the connections of each input.
        outgoing = module.out_channels * module.weight[0, 0].numel()
        assert module.weight.std().item() == pytest.approx((2 / outgoing) ** 0.5, rel=0.05)
        assert module.weight.mean().abs().item() < 2e-3
        assert module.bias is None or not module.bias.any()
