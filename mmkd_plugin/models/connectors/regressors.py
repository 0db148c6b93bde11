"""1x1 convolutions from a student's features to a teacher's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.models.connectors.factor_encoder import require_map
from mmkd_plugin.models.losses.functional import pool_to
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class HintRegressor(nn.Module):
    """Regress the teacher's channels from the student's by a 1x1 convolution with bias.

    For flat features it is a linear layer.

    Args:
        in_channels: The channels of the student's map. Several numbers if the map is chosen later,
            such as after the teachers' order has been measured. A narrower map then uses the first
            columns of the one weight.
        out_channels: The channels of the teacher's map.

    Shape:
        (N, C_in, H, W) to (N, C_out, H', W'), or (N, C_in) to (N, C_out).

    Raises:
        ConfigError: If a number of channels is not positive, or if features have other channels.
        ValueError: If a map meets a vector.

    Example:
        >>> regressor = HintRegressor(in_channels=8, out_channels=32)
        >>> regressor(torch.rand(2, 8, 16, 16), size=(4, 4)).shape
        torch.Size([2, 32, 4, 4])
        >>> regressor(torch.rand(2, 8)).shape
        torch.Size([2, 32])

    Reference:
        Romero et al., FitNets, ICLR 2015, eq. 3 (there with a larger kernel); Liu et al., AMTML-KD,
        2020, section 3.4.
    """

    def __init__(self, in_channels: int | Sequence[int], out_channels: int) -> None:
        super().__init__()
        numbers = list(in_channels) if isinstance(in_channels, Sequence) else [in_channels]
        if not numbers:
            raise ConfigError('in_channels', 'must name at least one width', found=in_channels)
        self.in_channels = frozenset(positive_integer('in_channels', one) for one in numbers)
        self.weight = nn.Parameter(
            torch.empty(positive_integer('out_channels', out_channels), max(self.in_channels))
        )
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, features: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Regress; a map larger than ``size`` is pooled to it first.

        Pooling first gives the same as pooling last, at less cost. A map is never enlarged.

        Args:
            features: The student's map (N, C_in, H, W) or vector (N, C_in).
            size: The spatial size of the teacher's features: (H, W) of a map, () of a vector.
                None accepts both and pools nothing.
        """
        if features.ndim not in (2, 4) or features.shape[1] not in self.in_channels:
            channels = ' or '.join(map(str, sorted(self.in_channels)))
            raise ConfigError(
                'in_channels',
                f'needs features (N, C, H, W) or (N, C) with C = {channels}',
                found=tuple(features.shape),
            )
        if size is not None and len(size) != features.ndim - 2:
            raise ValueError(
                f'HintRegressor: features {tuple(features.shape)} and a target of spatial size '
                f'{tuple(size)}: a map needs a map, a vector needs a vector'
            )
        weight = self.weight[:, : features.shape[1]]
        if features.ndim == 2:
            return F.linear(features, weight, self.bias)
        if size is not None:
            height, width = map(min, features.shape[2:], size)
            features = pool_to(features, (height, width))
        return F.conv2d(features, weight[..., None, None], self.bias)


@MODELS.register_module()
class OverhaulConnector(nn.Module):
    """Map the student's channels to the teacher's by a 1x1 convolution without bias and BatchNorm.

    There is no activation, since the target is a map before its ReLU. The convolution starts by
    He's rule of the outgoing connections, as in the authors' code.

    Args:
        in_channels: The channels of the student's map.
        out_channels: The channels of the teacher's map.

    Shape:
        (N, C_in, H, W) to (N, C_out, H, W).

    Raises:
        ConfigError: If a number of channels is not positive, or if a map has other channels.

    Example:
        >>> connector = OverhaulConnector(in_channels=8, out_channels=32)
        >>> connector(torch.rand(2, 8, 4, 4)).shape
        torch.Size([2, 32, 4, 4])

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, section 3
        (code: clovaai/overhaul-distillation).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = positive_integer('in_channels', in_channels)
        self.convolution = nn.Conv2d(
            in_channels, positive_integer('out_channels', out_channels), kernel_size=1, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.convolution.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor) -> Tensor:
        """Return the connected map (N, C_out, H, W)."""
        require_map('in_channels', x, self.in_channels)
        connected: Tensor = self.norm(self.convolution(x))
        return connected
