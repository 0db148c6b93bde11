"""Wide residual networks for small images, WRN-16-1 to WRN-46-4 and wider."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_plugin.models.backbones.cifar_resnet import HE_INIT
from mmkd_plugin.registry import MODELS


class PreActivationBlock(BaseModule):
    """Normalisation and ReLU before each of two 3x3 convolutions; the output is the bare sum, without ReLU.

    Where sizes differ, the shortcut is a strided 1x1 convolution of the activated input, otherwise the input itself.

    Args:
        in_channels: Channels of the input (N, in_channels, H, W).
        channels: Channels of the output (N, channels, H / stride, W / stride).
        stride: Stride of the first convolution and of the shortcut.
        dropout: Probability of zeroing an activation between the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()  # not in place, here and below: the normalisations may be tapped
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = in_channels == channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        active = self.relu1(self.bn1(x))
        out: Tensor = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        return out + (x if self.shortcut is None else self.shortcut(active))


@MODELS.register_module()
class CifarWideResNet(BaseModule):
    """WRN-d-k: a 3x3 stem and three stages of n pre-activation blocks, k times as wide as a residual network's, d = 6n + 4.

    The stages ``layer1`` to ``layer3`` have 16k, 32k and 64k channels, each at half the resolution of the one before. Their
    sums are normalised and activated by who reads them: the next stage's first block, and after the last stage ``norm`` and
    ``relu``. So the map before the ReLU is the output of ``layer2.0.bn1``, of ``layer3.0.bn1`` and of ``norm``.

    With a linear head of 10 classes, WRN-16-1, 16-2, 40-1, 40-2, 46-4 and 28-10 have 0.18, 0.69, 0.56, 2.2, 10.5 and 36.5 M
    parameters.

    Args:
        depth: 6n + 4: 10, 16, 22, 28, 34, 40, 46, ...
        widen_factor: k, the width in units of 16 channels.
        in_channels: Channels of the image.
        dropout: Probability of zeroing an activation between the two convolutions of a block.
        out_indices: Stages whose maps are returned, from 0; no stage after the last of them is built. The last is returned
            after ``norm`` and ``relu``, the others as bare sums.
        init_cfg: MMEngine's initialisation; by default Kaiming's for convolutions, as in the paper.

    Raises:
        ValueError: If ``depth`` is not 6n + 4, ``widen_factor`` is below 1, ``dropout`` is not within [0, 1), or
            ``out_indices`` is empty or not within 0..2.

    Source: Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016, table 1; https://github.com/szagoruyko/wide-residual-networks.
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
        super().__init__(HE_INIT if init_cfg is None else init_cfg)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(
                f'CifarWideResNet.depth: expected 6n + 4 (10, 16, 22, 28, 34, 40, 46, ...), got {depth}'
            )
        if widen_factor < 1:
            raise ValueError(
                f'CifarWideResNet.widen_factor: expected at least 1, got {widen_factor}'
            )
        if not 0 <= dropout < 1:
            raise ValueError(f'CifarWideResNet.dropout: expected a number in [0, 1), got {dropout}')
        if not out_indices or not set(out_indices) <= {0, 1, 2}:
            raise ValueError(
                f'CifarWideResNet.out_indices: expected some of (0, 1, 2), got {tuple(out_indices)}'
            )
        self.out_indices = tuple(out_indices)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        for index in range(max(out_indices) + 1):
            width, stride = 16 * widen_factor * 2**index, 1 if index == 0 else 2
            blocks = [PreActivationBlock(channels, width, stride, dropout)]
            blocks += [
                PreActivationBlock(width, width, 1, dropout) for _ in range((depth - 4) // 6 - 1)
            ]
            self.add_module(f'layer{index + 1}', nn.Sequential(*blocks))
            channels = width
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, in_channels, H, W) to the stages' maps, the last after ``relu``, in the order of the stages."""
        x = self.conv1(x)
        maps = []
        for index in range(max(self.out_indices) + 1):
            x = self.get_submodule(f'layer{index + 1}')(x)
            maps.append(x)
        maps[-1] = self.relu(self.norm(x))
        return tuple(maps[index] for index in sorted(set(self.out_indices)))
