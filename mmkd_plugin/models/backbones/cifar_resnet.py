"""The residual networks for small images, ResNet-20 to ResNet-110."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.registry import MODELS

SHORTCUTS = ('pad', 'conv')
HE_INIT = [dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', val=1, layer='BatchNorm2d')]


class ResidualBlock(BaseModule):
    """Two 3x3 convolutions around a shortcut; the output follows the last ReLU, ``relu2``, whose input is the sum.

    Args:
        in_channels: Channels of the input (N, in_channels, H, W).
        channels: Channels of the output (N, channels, H / stride, W / stride).
        stride: Stride of the first convolution and of the shortcut.
        shortcut: What joins two sizes: see :class:`CifarResNet`.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _make_shortcut(in_channels, channels, stride, shortcut)
        self.relu2 = (
            nn.ReLU()
        )  # a module, so that its input may be tapped; not in place: bn2 may be tapped too

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


class PadShortcut(nn.Module):
    """Take every ``stride``-th pixel and add channels of zeros on both sides: no parameters (the paper's option A)."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = extra_channels // 2
        self.after = extra_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + extra_channels, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _make_shortcut(in_channels: int, channels: int, stride: int, shortcut: str) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    if shortcut == 'pad':
        return PadShortcut(channels - in_channels, stride)
    projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(channels))


@MODELS.register_module()
class CifarResNet(BaseModule):
    """The CIFAR networks of He et al.: a 3x3 stem and three stages of n blocks, depth 6n + 2.

    The stages ``layer1`` to ``layer3`` are 1, 2 and 4 times ``base_channels`` wide, each at half the resolution of the
    one before. With 16 channels and a linear head of 10 classes, ResNet-20/32/44/56/110 have 0.27, 0.46, 0.66, 0.85 and
    1.7 M parameters.

    Args:
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
        in_channels: Channels of the image.
        base_channels: Width of the stem and of the first stage.
        stem_stride: Stride of the stem; 2 makes a net four times cheaper.
        shortcut: ``'pad'`` joins two sizes by subsampling and zero channels (the paper's option A, no parameters),
            ``'conv'`` by a strided 1x1 convolution with batch normalisation (option B).
        out_indices: Stages whose maps are returned, from 0; no stage after the last of them is built.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions, as in the paper.

    Raises:
        ValueError: If ``depth`` is not 6n + 2, ``shortcut`` is unknown, or ``out_indices`` is empty or not within 0..2.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        base_channels: int = 16,
        stem_stride: int = 1,
        shortcut: str = 'pad',
        out_indices: Sequence[int] = (2,),
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(HE_INIT if init_cfg is None else init_cfg)
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                f'CifarResNet.depth: expected 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...), got {depth}'
            )
        if shortcut not in SHORTCUTS:
            raise ValueError(f'CifarResNet.shortcut: expected one of {SHORTCUTS}, got {shortcut!r}')
        if not out_indices or not set(out_indices) <= {0, 1, 2}:
            raise ValueError(
                f'CifarResNet.out_indices: expected some of (0, 1, 2), got {tuple(out_indices)}'
            )
        self.out_indices = tuple(out_indices)
        self.conv1 = nn.Conv2d(in_channels, base_channels, 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(base_channels)
        channels = base_channels
        for index in range(max(out_indices) + 1):
            width, stride = base_channels * 2**index, 1 if index == 0 else 2
            blocks = [ResidualBlock(channels, width, stride, shortcut)]
            blocks += [
                ResidualBlock(width, width, 1, shortcut) for _ in range((depth - 2) // 6 - 1)
            ]
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))
            channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, in_channels, H, W) to the stages' maps, after their last ReLU, in the order of the stages."""
        x = F.relu(self.bn1(self.conv1(x)))
        outs = []
        for index in range(max(self.out_indices) + 1):
            x = self.get_submodule(f'layer{index + 1}')(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)
