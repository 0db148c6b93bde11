"""Token maps of real backbones without trained weights, and of others in their form."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import classification as tiny
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.adapters.layout import Layout
from mmkd_plugin.adapters.probe import dry_run, find_shape
from mmkd_plugin.adapters.tapped_model import TappedModel
from mmkd_plugin.adapters.token_grid import token_layout

VIT = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16, num_tokens=1)
#: A backbone of MMPretrain, a tap, and the shape of its map.
BACKBONES: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    'DeiT with a distillation token': (
        dict(type='DistilledVisionTransformer', arch=VIT, img_size=32, patch_size=8),
        'backbone.layers.1',
        (8, 4, 4),
    ),
    'ViT': (
        dict(type='VisionTransformer', arch=VIT, img_size=32, patch_size=8),
        'backbone.ln1',
        (8, 4, 4),
    ),
    'Swin': (
        dict(
            type='SwinTransformer',
            arch=dict(embed_dims=4, depths=[1, 1], num_heads=[1, 1]),
            img_size=32,
            window_size=4,
            out_indices=(1,),
        ),
        'backbone.stages.1[0]',
        (8, 4, 4),
    ),
    'MixMIM': (
        dict(
            type='MixMIMTransformer',
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
            img_size=64,
            window_size=[4, 4, 4, 2],
        ),
        'backbone.layers.1',
        (32, 4, 4),
    ),
    'TNT': (
        dict(
            type='TNT',
            arch=dict(
                embed_dims_outer=12,
                embed_dims_inner=4,
                num_layers=2,
                num_heads_outer=2,
                num_heads_inner=2,
            ),
            img_size=32,
            patch_size=8,
        ),
        'backbone.layers.1[1]',
        (12, 4, 4),
    ),
    'T2T': (
        dict(
            type='T2T_ViT',
            img_size=64,
            embed_dims=24,
            num_layers=2,
            t2t_cfg=dict(token_dims=8, use_performer=False),
            layer_cfgs=dict(num_heads=2, feedforward_channels=16),
        ),
        'backbone.encoder.1',
        (24, 4, 4),
    ),
    'ConvNeXt': (
        dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 12, 16])),
        'backbone.stages.2',
        (12, 4, 4),
    ),
    'MobileViT': (dict(type='MobileViT', arch='xx_small'), 'backbone.layers.3', (64, 4, 4)),
    'SAM': (
        dict(
            type='ViTSAM',
            arch=dict(
                embed_dims=12,
                num_layers=2,
                num_heads=2,
                feedforward_channels=16,
                global_attn_indexes=[1],
            ),
            img_size=64,
            out_channels=4,
        ),
        'backbone.layers.1',
        (12, 4, 4),
    ),
}  # fmt: skip


def network(backbone: dict[str, Any]) -> nn.Module:
    return tiny.network(dict(type='ImageClassifier', backbone=backbone))


@pytest.mark.parametrize('name', BACKBONES)
def test_maps_of_backbones(name: str) -> None:
    backbone, tap, shape = BACKBONES[name]
    net = TappedModel(network(backbone).eval(), 'teacher')
    net.request([tap])
    output = dry_run(net, find_shape(net, None))
    assert tuple(output.feature(tap).shape) == (2, *shape)


class Tokens(nn.Module):
    """A backbone in the form of timm's: it states its tokens, and accepts one size.

    Its tokens are the patches of the image, after tokens that show none.
    """

    def __init__(self, side: int = 32, **tokens: int) -> None:
        super().__init__()
        self.side = side
        for name, count in tokens.items():
            self.register_parameter(name, nn.Parameter(torch.full((1, count, 7), -1.0)))
        self.names = list(tokens)
        self.embed = nn.Conv2d(3, 7, 8, 8)
        self.blocks = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        if images.shape[2:] != (self.side, self.side):
            raise AssertionError('another size')
        self.seen = self.embed(images)
        extra = [getattr(self, name).expand(len(images), -1, -1) for name in self.names]
        return (self.blocks(torch.cat([*extra, self.seen.flatten(2).transpose(1, 2)], dim=1)),)


MODELS.register_module(module=Tokens, force=True)


@pytest.mark.parametrize(
    'tokens',
    [
        {},
        dict(cls_token=1),
        dict(cls_token=1, dist_token=1),
        dict(cls_token=1, reg_token=4),
        dict(cls_token=1, register_tokens=4),
    ],
    ids=str,
)
def test_extra_tokens_are_left_out(tokens: dict[str, int]) -> None:
    model = network(dict(type='Tokens', **tokens)).eval()
    net = TappedModel(model, 'teacher')
    net.request(['backbone.blocks'])
    output = net.observe(torch.randn(2, 3, 32, 32))
    assert torch.equal(output.feature('backbone.blocks'), model.backbone.seen)


class Unroll(nn.Module):
    """Changes the order of the tokens, as Hiera's."""


class Grid(nn.Module):
    """States a grid."""

    def __init__(self, **stated: Any) -> None:
        super().__init__()
        vars(self).update(stated)


@pytest.mark.parametrize(
    ('stated', 'shape', 'expected'),
    [
        (dict(num_patches=16), (2, 16, 6), Layout((1,), 0)),
        (dict(num_patches=16), (2, 6, 16), Layout((2,), 0)),
        (dict(grid_size=(4, 4), num_prefix_tokens=5), (2, 21, 6), Layout((1,), 5)),
        (dict(grid_size=(8, 8)), (2, 16, 12), Layout((1,), 0)),  # the next stage of a pyramid
        (dict(), (2, 49, 12), None),
        (dict(), (2, 64, 12), Layout((1,), 0)),  # stride 4
        (dict(), (2, 16, 64), None),  # two axes fit
        (dict(num_patches=16), (2, 16, 16), None),
        (dict(num_patches=16), (2, 4, 4, 6), None),
    ],
)
def test_stated_grids(
    stated: dict[str, Any], shape: tuple[int, ...], expected: Layout | None
) -> None:
    assert token_layout(Grid(**stated), shape, (32, 32)) == expected


def test_reordered_tokens_have_no_layout() -> None:
    assert token_layout(nn.Sequential(Grid(num_patches=16), Unroll()), (2, 16, 6), (32, 32)) is None


@pytest.mark.parametrize('direction', ['teaches a CNN', 'learns from a CNN'])
@pytest.mark.parametrize('name', ['ViT', 'Swin', 'TNT', 'ConvNeXt'])
def test_hybrid_pairs(name: str, direction: str, tmp_path: Path) -> None:
    backbone, tap, _ = BACKBONES[name]
    other = dict(type='ImageClassifier', backbone=backbone)
    cnn = tiny.classifier()
    pair = (cnn, other) if direction == 'teaches a CNN' else (other, cnn)
    taps = [tap if one is other else 'backbone.layer3' for one in pair]
    side = 64 if pair[0] is other and name == 'ConvNeXt' else 32
    model = tiny.distiller(
        tmp_path,
        student=pair[0],
        teachers=[dict(name='t0', model=pair[1], checkpoint=tiny.checkpoint(tmp_path, pair[1]))],
        methods=dict(hint=dict(type='Hint', pairs=[dict(student=taps[0], teacher=taps[1])])),
        task_weight=0.0,
    )
    images = torch.randint(0, 255, (4, 3, side, side), dtype=torch.uint8)
    losses = tiny.losses_of(model, dict(inputs=list(images), data_samples=None))
    losses['hint.loss_hint'].backward()
    gradients = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients)
