"""Residual networks for small images, ResNet-20 to ResNet-110."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import ConfigError, one_of, positive_integer
from mmkd_plugin.models.backbones.stages import StagedBackbone
from mmkd_plugin.registry import MODELS

SHORTCUTS = ('pad', 'conv')


@MODELS.register_module()
class CifarResNet(StagedBackbone):
    """The CIFAR networks of He et al.: a 3x3 stem and three stages of n blocks, depth 6n + 2.

    The stages ``layer1`` to ``layer3`` are 1, 2 and 4 times ``base_channels`` wide. Each from the
    second on halves the resolution. With 16 channels and a linear head of 10 classes,
    ResNet-20/32/44/56/110 have 0.27, 0.46, 0.66, 0.85 and 1.7 M parameters.

    Args:
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
        in_channels: Channels of the image.
        base_channels: Width of the first stage.
        stem_channels: Width of the stem; ``base_channels`` if it is None. The networks
            ResNet-8x4 and ResNet-32x4 have ``base_channels=64``, ``stem_channels=32`` and
            ``shortcut='conv'``.
        stem_stride: Stride of the stem; 2 makes a network four times cheaper.
        shortcut: ``'pad'`` joins two sizes by subsampling and zero channels (the paper's option A,
            no parameters). ``'conv'`` joins them by a strided 1x1 convolution with batch
            normalisation (option B).
        out_indices: Stages whose maps are returned, from 0. No later stage is built.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions, as in the paper.

    Shape:
        Images (N, in_channels, H, W) to maps (N, C, H / stride, W / stride), one for each stage in
        ``out_indices``, in the order of the stages.

    Raises:
        ConfigError: If ``depth`` is not 6n + 2, ``in_channels``, ``base_channels``,
            ``stem_channels`` or ``stem_stride`` is not a positive integer, ``shortcut`` is unknown,
            or ``out_indices`` is empty or not within 0..2.

    Example:
        >>> import torch
        >>> net = CifarResNet(20, out_indices=(1, 2))
        >>> [tuple(feature.shape) for feature in net(torch.rand(2, 3, 32, 32))]
        [(2, 32, 16, 16), (2, 64, 8, 8)]

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2.
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
        stem_channels: int | None = None,
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        if positive_integer(self.key('depth'), depth) < 8 or depth % 6 != 2:
            raise ConfigError(
                self.key('depth'), 'must be 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...)', found=depth
            )
        positive_integer(self.key('in_channels'), in_channels)
        positive_integer(self.key('base_channels'), base_channels)
        positive_integer(self.key('stem_stride'), stem_stride)
        one_of(self.key('shortcut'), shortcut, SHORTCUTS)
        channels = base_channels if stem_channels is None else stem_channels
        positive_integer(self.key('stem_channels'), channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for index in range(self.num_built):
            width, stride = base_channels * 2**index, 1 if index == 0 else 2
            blocks = [ResidualBlock(channels, width, stride, shortcut)]
            blocks += [
                ResidualBlock(width, width, 1, shortcut) for _ in range((depth - 2) // 6 - 1)
            ]
            self.add_stage(index, blocks)
            channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the stages in ``out_indices``, after their last ReLU."""
        return self.run_stages(F.relu(self.bn1(self.conv1(x))))


class ResidualBlock(BaseModule):
    """Two 3x3 convolutions beside a shortcut, and the ReLU ``relu2`` of their sum.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        shortcut: How two sizes are joined; see :class:`CifarResNet`.

    Shape:
        (N, in_channels, H, W) to (N, channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _make_shortcut(in_channels, channels, stride, shortcut)
        # A module, so that its input can be tapped; not in place, since bn2 can be tapped too.
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


class PadShortcut(nn.Module):
    """Take every ``stride``-th pixel and add channels of zeros on both sides (option A).

    Args:
        extra_channels: Number of channels that are added.
        stride: Distance of the pixels that are taken.

    Shape:
        (N, C, H, W) to (N, C + extra_channels, H / stride, W / stride).
    """

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = extra_channels // 2
        self.after = extra_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _make_shortcut(in_channels: int, channels: int, stride: int, shortcut: str) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    if shortcut == 'pad':
        return PadShortcut(channels - in_channels, stride)
    projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
    return nn.Sequential(projection, nn.BatchNorm2d(channels))
