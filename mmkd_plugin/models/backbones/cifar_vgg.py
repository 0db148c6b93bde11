"""The plain networks for small images, VGG-11 to VGG-19."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.models.backbones.cifar_resnet import HE_INIT
from mmkd_plugin.registry import MODELS

#: Convolutions of each stage by depth, which counts the three linear layers of the ImageNet original.
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class ConvolutionBlock(BaseModule):
    """A 3x3 convolution, its normalisation and its ReLU; without normalisation the convolution has a bias.

    Args:
        in_channels: Channels of the input (N, in_channels, H, W).
        channels: Channels of the output (N, channels, H, W).
        batch_norm: Whether to normalise.
    """

    def __init__(self, in_channels: int, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=not batch_norm)
        self.bn = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.relu = nn.ReLU()  # not in place: its input, which is the output of bn, may be tapped

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


@MODELS.register_module()
class CifarVGG(BaseModule):
    """The convolutions of VGG for small images: five stages with 2x2 max pooling between them.

    The stages ``layer1`` to ``layer5`` are 1, 2, 4, 8 and 8 times ``base_channels`` wide, each at half the resolution of the
    one before: 32x32 images end as maps of 2x2. No pooling follows the last stage: what a head reads is the mean of its map,
    ``GlobalAveragePooling`` and one linear layer in place of the original's three. The map before the last ReLU is the input
    of ``layer5.1.relu`` in VGG-13.

    With 64 channels, normalisation and a linear head of 10 classes, VGG-11/13/16/19 have 9.2, 9.4, 14.7 and 20.0 M parameters.

    Args:
        depth: 11, 13, 16 or 19.
        in_channels: Channels of the image.
        base_channels: Width of the first stage.
        batch_norm: Whether each convolution is normalised.
        out_indices: Stages whose maps are returned, from 0; no stage after the last of them is built.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions.

    Raises:
        ValueError: If ``depth`` is unknown, or ``out_indices`` is empty or not within 0..4.

    Source: Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1 (A, B, D, E). The authors of IE-KD, whose
    student VGG-13 is, pool once more, to 1x1, and keep three linear layers.
    """

    def __init__(
        self,
        depth: int = 13,
        in_channels: int = 3,
        base_channels: int = 64,
        batch_norm: bool = True,
        out_indices: Sequence[int] = (4,),
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(HE_INIT if init_cfg is None else init_cfg)
        if depth not in CONVOLUTIONS:
            raise ValueError(f'CifarVGG.depth: expected one of {tuple(CONVOLUTIONS)}, got {depth}')
        if not out_indices or not set(out_indices) <= {0, 1, 2, 3, 4}:
            raise ValueError(
                f'CifarVGG.out_indices: expected some of (0, 1, 2, 3, 4), got {tuple(out_indices)}'
            )
        self.out_indices = tuple(out_indices)
        channels = in_channels
        for index in range(max(out_indices) + 1):
            width = base_channels * min(2**index, 8)
            blocks = [ConvolutionBlock(channels, width, batch_norm)]
            blocks += [
                ConvolutionBlock(width, width, batch_norm)
                for _ in range(CONVOLUTIONS[depth][index] - 1)
            ]
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))
            channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, in_channels, H, W) to the stages' maps, after their last ReLU, in the order of the stages."""
        outs = []
        for index in range(max(self.out_indices) + 1):
            x = self.get_submodule(f'layer{index + 1}')(F.max_pool2d(x, 2) if index else x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)
