"""The encoder to a teacher's factor, and the stacks of 3x3 convolutions of paraphrasers."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, one_of, positive_integer
from mmkd_plugin.registry import MODELS

NORMS = ('bn', 'gn', 'none')
ENDS = ('leaky_relu', 'linear')
_SLOPE = 0.1


@MODELS.register_module()
class FactorEncoder(nn.Module):
    r"""Encode a map as a factor by three 3x3 convolutions :math:`C_{in} \to C_{in} \to c \to c`.

    Norm and LeakyReLU(0.1) follow each convolution. This is the first half of a paraphraser, and
    IE-KD's encoder of the student's map or of a part of it. The code of IE-KD's authors applies one
    more LeakyReLU before the first convolution. It changes nothing on a map after ReLU, and is left
    out here.

    With ``norm=None`` it is the translator of factor transfer: the same three convolutions with
    biases and without norm. LeakyReLU(0.1) follows each of them, the last one included.

    Args:
        in_channels: :math:`C_{in}`, the channels of the student's map.
        factor_channels: :math:`c`, the channels of the teacher's factor.
        norm: ``'bn'``, ``'gn'`` or None.

    Shape:
        (N, C_in, H, W) to (N, c, H, W).

    Raises:
        ConfigError: If an argument is out of range, or if a map has other channels.

    Example:
        >>> import torch
        >>> encoder = FactorEncoder(in_channels=16, factor_channels=8)
        >>> encoder(torch.rand(2, 16, 4, 4)).shape
        torch.Size([2, 8, 4, 4])

    Reference:
        Kim et al., Paraphrasing Complex Network, NeurIPS 2018, section 3.2
        (code: Jangho-Kim/Factor-Transfer-pytorch); Huang et al., Revisiting Knowledge Distillation,
        CVPR 2021.
    """

    def __init__(self, in_channels: int, factor_channels: int, norm: str | None = 'bn') -> None:
        super().__init__()
        self.in_channels = positive_integer('in_channels', in_channels)
        self.factor_channels = positive_integer('factor_channels', factor_channels)
        self.layers = three_convolutions(
            (in_channels, in_channels, factor_channels, factor_channels), norm
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the factor (N, c, H, W) of a map (N, C_in, H, W)."""
        require_map('in_channels', x, self.in_channels)
        encoded: Tensor = self.layers(x)
        return encoded


def three_convolutions(
    channels: Sequence[int],
    norm: str | None = 'bn',
    transposed: bool = False,
    last: str = 'leaky_relu',
) -> nn.Sequential:
    """Build 3x3 convolutions, each followed by a norm and LeakyReLU(0.1).

    Stride and padding are 1, so a map keeps its height and width.

    Weights start by He's rule for the forward pass. A stack without norm then keeps the scale of
    its input. The code of IE-KD's authors uses He's rule for the backward pass. The code of factor
    transfer uses torch's default, which has a third of this variance.

    Args:
        channels: Before, between and after the layers, such as ``(64, 64, 32, 32)`` for three.
        norm: ``'bn'``; ``'gn'`` with as many groups as the greatest common divisor of 32 and the
            channels; None or ``'none'``, which gives the convolutions biases.
        transposed: Use transposed convolutions. At stride 1 they express what plain ones express.
        last: ``'linear'`` leaves norm and LeakyReLU out of the last layer, which then has a bias.

    Raises:
        ConfigError: If ``norm`` or ``last`` is none of these.

    Example:
        >>> [type(layer).__name__ for layer in three_convolutions((8, 4), 'gn')]
        ['Conv2d', 'GroupNorm', 'LeakyReLU']
    """
    norm = one_of('norm', 'none' if norm is None else norm, NORMS)
    one_of('last', last, ENDS)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(channels), start=2):
        linear = last == 'linear' and number == len(channels)
        layers.append(_convolution(before, after, linear or norm == 'none', transposed))
        if linear:
            continue
        if norm == 'bn':
            layers.append(nn.BatchNorm2d(after))
        elif norm == 'gn':
            layers.append(nn.GroupNorm(math.gcd(32, after), after))
        layers.append(nn.LeakyReLU(_SLOPE, inplace=True))
    return nn.Sequential(*layers)


def require_map(key: str, x: Tensor, channels: int) -> None:
    """Refuse an input that is no map (N, ``channels``, H, W).

    Args:
        key: The config key that states the channels.
        x: The input.
        channels: The channels that it must have.

    Raises:
        ConfigError: For ``key``, with the shape of ``x``.
    """
    if x.ndim != 4 or x.shape[1] != channels:
        raise ConfigError(key, f'needs a map (N, {channels}, H, W)', found=tuple(x.shape))


def _convolution(before: int, after: int, bias: bool, transposed: bool) -> nn.Module:
    options: dict[str, Any] = dict(kernel_size=3, stride=1, padding=1, bias=bias)
    convolution = (nn.ConvTranspose2d if transposed else nn.Conv2d)(before, after, **options)
    # A transposed convolution's weight is (in, out, 3, 3), and torch reads its fans the other way.
    nn.init.kaiming_normal_(
        convolution.weight,
        a=_SLOPE,
        mode='fan_out' if transposed else 'fan_in',
        nonlinearity='leaky_relu',
    )
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
