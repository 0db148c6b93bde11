"""MobileNet for small images."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_plugin.models.backbones.cifar_resnet import HE_INIT
from mmkd_plugin.registry import MODELS

#: Channels of the separable convolutions of each stage; the first of a stage, but of the first stage, halves the map.
STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))


def _separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution of each channel by itself, then a 1x1 convolution; each with normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


@MODELS.register_module()
class CifarMobileNet(BaseModule):
    """MobileNet with 13 separable convolutions, whose stem does not shrink the image: a map of 32x32 ends as 2x2, not 1x1.

    The stages ``layer1`` to ``layer5`` have 64, 128, 256, 512 and 1024 channels, each from the second on at half the resolution of the
    one before. With a linear head of 100 classes it has 3.3 M parameters.

    Args:
        in_channels: Channels of the image.
        widen_factor: Multiplies all widths.
        out_indices: Stages whose maps are returned, from 0; no stage after the last of them is built.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions.

    Raises:
        ValueError: If ``widen_factor`` is not above 0, or ``out_indices`` is empty or not within 0..4.

    Source: Howard et al., MobileNets, 2017, table 1; so wide on CIFAR-100 in Zhang et al., Deep Mutual Learning, CVPR 2018, table 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (4,),
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(HE_INIT if init_cfg is None else init_cfg)
        if widen_factor <= 0:
            raise ValueError(
                f'CifarMobileNet.widen_factor: expected a number > 0, got {widen_factor}'
            )
        if not out_indices or not set(out_indices) <= set(range(len(STAGES))):
            raise ValueError(
                f'CifarMobileNet.out_indices: expected some of (0, 1, 2, 3, 4), got {tuple(out_indices)}'
            )
        self.out_indices = tuple(out_indices)
        channels = round(32 * widen_factor)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        for index, widths in enumerate(STAGES[: max(out_indices) + 1]):
            blocks = []
            for number, width in enumerate(round(widen_factor * width) for width in widths):
                blocks.append(_separable(channels, width, 2 if index and not number else 1))
                channels = width
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, in_channels, H, W) to the stages' maps, after their last ReLU, in the order of the stages."""
        x = self.stem(x)
        maps = []
        for index in range(max(self.out_indices) + 1):
            x = self.get_submodule(f'layer{index + 1}')(x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)
