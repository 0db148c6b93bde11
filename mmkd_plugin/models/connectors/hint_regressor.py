"""The regressor between a student's map and a teacher's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class HintRegressor(nn.Module):
    """A single 1x1 convolution from the student's channels to the teacher's (a linear layer for flat features).

    Args:
        in_channels: Channels of the student's map. Several numbers where the map is chosen later, e.g. when the teachers' order has been
            measured: a narrower map then uses the first columns of the one weight.
        out_channels: Channels of the teacher's map.

    Shape: (N, C_in, H, W) to (N, C_out, H', W'), or (N, C_in) to (N, C_out).

    Source: Romero et al., FitNets, ICLR 2015, eq. 3 (there with a larger kernel); Liu et al., AMTML-KD, 2020, section 3.4.
    """

    def __init__(self, in_channels: int | Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.in_channels = frozenset([in_channels] if isinstance(in_channels, int) else in_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, max(self.in_channels)))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, features: Tensor, size: Sequence[int] = ()) -> Tensor:
        """Regress; a map larger than ``size`` (H, W) is pooled to it first, which gives the same at less cost.

        Raises:
            ValueError: If the features have other channels than the config or the probe said.
        """
        if features.ndim not in (2, 4) or features.shape[1] not in self.in_channels:
            raise ValueError(
                f'in_channels: expected features (N, C, H, W) or (N, C) with C of {sorted(self.in_channels)}, '
                f'got {tuple(features.shape)}'
            )
        weight = self.weight[:, : features.shape[1]]
        if features.ndim == 2:
            return F.linear(features, weight, self.bias)
        if len(size) == 2:
            height, width = (
                min(own, other) for own, other in zip(features.shape[2:], size, strict=True)
            )
            if (height, width) != tuple(features.shape[2:]):
                features = F.adaptive_avg_pool2d(features, (height, width))
        return F.conv2d(features, weight[..., None, None], self.bias)
