"""Plain networks for small images, VGG-11 to VGG-19."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.models.backbones.stages import StagedBackbone
from mmkd_plugin.registry import MODELS

#: Convolutions of each stage by depth. The depth counts the three linear layers of the original.
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


@MODELS.register_module()
class CifarVGG(StagedBackbone):
    """The convolutions of VGG for small images: five stages with 2x2 max pooling between them.

    The stages ``layer1`` to ``layer5`` are 1, 2, 4, 8 and 8 times ``base_channels`` wide. Each from
    the second on halves the resolution, so that 32x32 images end as maps of 2x2. No pooling follows
    the last stage. ``GlobalAveragePooling`` and one linear layer take the place of the original's
    three linear layers. The map before the last ReLU is the input of ``layer5.1.relu`` in VGG-13.

    With 64 channels, normalisation and a linear head of 10 classes, VGG-11/13/16/19 have 9.2, 9.4,
    14.7 and 20.0 M parameters.

    Args:
        depth: 11, 13, 16 or 19.
        in_channels: Channels of the image.
        base_channels: Width of the first stage.
        batch_norm: Whether each convolution is normalised.
        out_indices: Stages whose maps are returned, from 0. No later stage is built.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions.

    Shape:
        Images (N, in_channels, H, W) to maps (N, C, H / stride, W / stride), one for each stage in
        ``out_indices``, in the order of the stages.

    Raises:
        ConfigError: If ``depth`` is unknown, ``in_channels`` or ``base_channels`` is not a positive
            integer, or ``out_indices`` is empty or not within 0..4.

    Example:
        >>> import torch
        >>> [feature] = CifarVGG(13, base_channels=8)(torch.rand(2, 3, 32, 32))
        >>> feature.shape
        torch.Size([2, 64, 2, 2])

    Reference:
        Simonyan & Zisserman, Very Deep Convolutional Networks, ICLR 2015, table 1 (A, B, D, E). The
        authors of IE-KD use VGG-13 as a student. They pool once more, to 1x1, and keep three linear
        layers.
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
        super().__init__(5, out_indices, init_cfg)
        if depth not in CONVOLUTIONS:
            raise ConfigError(
                self.key('depth'), f'must be one of {tuple(CONVOLUTIONS)}', found=depth
            )
        positive_integer(self.key('in_channels'), in_channels)
        positive_integer(self.key('base_channels'), base_channels)
        channels = in_channels
        for index in range(self.num_built):
            width = base_channels * min(2**index, 8)
            blocks = [ConvolutionBlock(channels, width, batch_norm)]
            blocks += [
                ConvolutionBlock(width, width, batch_norm)
                for _ in range(CONVOLUTIONS[depth][index] - 1)
            ]
            self.add_stage(index, blocks)
            channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the stages in ``out_indices``, after their last ReLU."""
        return self.run_stages(x, between=lambda x: F.max_pool2d(x, 2))


class ConvolutionBlock(BaseModule):
    """A 3x3 convolution, its normalisation and its ReLU.

    Without normalisation the convolution has a bias.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        batch_norm: Whether to normalise.

    Shape:
        (N, in_channels, H, W) to (N, channels, H, W).
    """

    def __init__(self, in_channels: int, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=not batch_norm)
        self.bn = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.relu = nn.ReLU()  # not in place, since its input, the output of bn, can be tapped

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out
