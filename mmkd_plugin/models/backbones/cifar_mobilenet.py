"""MobileNet for small images."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import positive_integer, positive_number
from mmkd_plugin.models.backbones.stages import StagedBackbone
from mmkd_plugin.registry import MODELS

#: Channels of the separable convolutions by stage. The first of a stage halves the map, except in
#: the first stage.
STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))


@MODELS.register_module()
class CifarMobileNet(StagedBackbone):
    """MobileNet with 13 separable convolutions and a stem that keeps the size of the image.

    An image of 32x32 ends as a map of 2x2, not 1x1. The stages ``layer1`` to ``layer5`` have 64,
    128, 256, 512 and 1024 channels. Each from the second on halves the resolution. With a linear
    head of 100 classes the network has 3.3 M parameters.

    Args:
        in_channels: Channels of the image.
        widen_factor: Multiplies all widths.
        out_indices: Stages whose maps are returned, from 0. No later stage is built.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions.

    Shape:
        Images (N, in_channels, H, W) to maps (N, C, H / stride, W / stride), one for each stage in
        ``out_indices``, in the order of the stages.

    Raises:
        ConfigError: If ``in_channels`` is not a positive integer, ``widen_factor`` is not above 0,
            or ``out_indices`` is empty or not within 0..4.

    Example:
        >>> import torch
        >>> [feature] = CifarMobileNet(widen_factor=0.25)(torch.rand(2, 3, 32, 32))
        >>> feature.shape
        torch.Size([2, 256, 2, 2])

    Reference:
        Howard et al., MobileNets, 2017, table 1. Zhang et al., Deep Mutual Learning, CVPR 2018,
        table 1, use this width on CIFAR-100.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (4,),
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(len(STAGES), out_indices, init_cfg)
        positive_integer(self.key('in_channels'), in_channels)
        positive_number(self.key('widen_factor'), widen_factor)
        channels = round(32 * widen_factor)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        for index, widths in enumerate(STAGES[: self.num_built]):
            blocks = []
            for number, width in enumerate(round(widen_factor * width) for width in widths):
                blocks.append(_separable(channels, width, 2 if index and not number else 1))
                channels = width
            self.add_stage(index, blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the stages in ``out_indices``, after their last ReLU."""
        return self.run_stages(self.stem(x))


def _separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Build a depthwise 3x3 and a 1x1 convolution, each with normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
