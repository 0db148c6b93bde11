"""Wide residual networks for small images, WRN-16-1 to WRN-46-4 and wider."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, fraction, positive_integer
from mmkd_plugin.models.backbones.stages import StagedBackbone
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class CifarWideResNet(StagedBackbone):
    """WRN-d-k: a 3x3 stem and three stages of n pre-activation blocks, depth d = 6n + 4.

    The network is k times as wide as a residual network: the stages ``layer1`` to ``layer3`` have
    16k, 32k and 64k channels. Each from the second on halves the resolution.

    A stage ends with a bare sum. The first block of the next stage normalises and activates it; the
    modules ``norm`` and ``relu`` do so after the last stage. The map before the ReLU is therefore
    the output of ``layer2.0.bn1``, of ``layer3.0.bn1`` and of ``norm``.

    With a linear head of 10 classes, WRN-16-1, 16-2, 40-1, 40-2, 46-4 and 28-10 have 0.18, 0.69,
    0.56, 2.2, 10.5 and 36.5 M parameters.

    Args:
        depth: 6n + 4: 10, 16, 22, 28, 34, 40, 46, ...
        widen_factor: k, the width in units of 16 channels.
        in_channels: Channels of the image.
        dropout: Probability of zeroing an activation between the two convolutions of a block.
        out_indices: Stages whose maps are returned, from 0. No later stage is built. The last map
            is returned after ``norm`` and ``relu``, the others as bare sums.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions, as in the paper.

    Shape:
        Images (N, in_channels, H, W) to maps (N, C, H / stride, W / stride), one for each stage in
        ``out_indices``, in the order of the stages.

    Raises:
        ConfigError: If ``depth`` is not 6n + 4, ``widen_factor`` or ``in_channels`` is not a
            positive integer, ``dropout`` is not within [0, 1), or ``out_indices`` is empty or not
            within 0..2.

    Example:
        >>> import torch
        >>> net = CifarWideResNet(16, widen_factor=2, out_indices=(1, 2))
        >>> [tuple(feature.shape) for feature in net(torch.rand(2, 3, 32, 32))]
        [(2, 64, 16, 16), (2, 128, 8, 8)]

    Reference:
        Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016, table 1
        (code: https://github.com/szagoruyko/wide-residual-networks).
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int = 1,
        in_channels: int = 3,
        dropout: float = 0.0,
        out_indices: Sequence[int] = (2,),
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(3, out_indices, init_cfg)
        if positive_integer(self.key('depth'), depth) < 10 or depth % 6 != 4:
            raise ConfigError(
                self.key('depth'), 'must be 6n + 4 (10, 16, 22, 28, 34, 40, 46, ...)', found=depth
            )
        positive_integer(self.key('widen_factor'), widen_factor)
        positive_integer(self.key('in_channels'), in_channels)
        fraction(self.key('dropout'), dropout)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        for index in range(self.num_built):
            width, stride = 16 * widen_factor * 2**index, 1 if index == 0 else 2
            blocks = [PreActivationBlock(channels, width, stride, dropout)]
            blocks += [
                PreActivationBlock(width, width, 1, dropout) for _ in range((depth - 4) // 6 - 1)
            ]
            self.add_stage(index, blocks)
            channels = width
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the stages in ``out_indices``, the last after ``relu``."""
        *sums, last = self.run_stages(self.conv1(x))
        return *sums, self.relu(self.norm(last))


class PreActivationBlock(BaseModule):
    """Normalisation and ReLU before each of two 3x3 convolutions; the output is the bare sum.

    If the sizes differ, the shortcut is a strided 1x1 convolution of the activated input. Otherwise
    it is the input itself.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        dropout: Probability of zeroing an activation between the convolutions.

    Shape:
        (N, in_channels, H, W) to (N, channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()  # not in place, here and below, since bn1 and bn2 can be tapped
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = in_channels == channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out: Tensor = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        return out + (x if self.shortcut is None else self.shortcut(active))
