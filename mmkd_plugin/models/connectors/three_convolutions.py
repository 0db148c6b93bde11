"""The stack that factor transfer's networks are made of."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import one_of

NORMS = ('bn', 'gn', 'none')
ENDS = ('leaky_relu', 'linear')
_SLOPE = 0.1


def three_convolutions(
    channels: Sequence[int],
    norm: str | None = 'bn',
    transposed: bool = False,
    last: str = 'leaky_relu',
) -> nn.Sequential:
    """Convolutions 3x3, stride 1, padding 1, each followed by a norm and LeakyReLU(0.1): a map keeps its height and width.

    Weights start by He's rule for the forward pass, so that a stack without norm neither shrinks nor swells its input (the authors'
    code has the rule of the backward pass; factor transfer's has torch's default, a third of this variance).

    Args:
        channels: Before, between and after the layers, e.g. ``(64, 64, 32, 32)`` for three.
        norm: ``'bn'``; ``'gn'``, of as many groups as 32 and the channels have in common; ``None`` or ``'none'``, then the convolutions
            have biases.
        transposed: Transposed convolutions. At stride 1 they can express just what plain ones can.
        last: ``'linear'`` leaves norm and LeakyReLU out of the last layer, which then has a bias.

    Raises:
        ValueError: If ``norm`` or ``last`` is none of these.
    """
    norm = one_of('norm', 'none' if norm is None else norm, NORMS)
    one_of('last', last, ENDS)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(channels), start=2):
        linear = last == 'linear' and number == len(channels)
        biased = linear or norm == 'none'
        layers.append(_convolution(before, after, biased, transposed))
        if not linear:
            if norm != 'none':
                layers.append(
                    nn.BatchNorm2d(after)
                    if norm == 'bn'
                    else nn.GroupNorm(math.gcd(32, after), after)
                )
            layers.append(nn.LeakyReLU(_SLOPE, inplace=True))
    return nn.Sequential(*layers)


def require_map(key: str, x: Tensor, channels: int) -> None:
    """Refuse what is no map (N, C, H, W) of so many channels.

    Raises:
        ValueError: That.
    """
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f'{key}: expected a map (N, {channels}, H, W), got {tuple(x.shape)}')


def _convolution(before: int, after: int, bias: bool, transposed: bool) -> nn.Module:
    options: dict[str, Any] = dict(kernel_size=3, stride=1, padding=1, bias=bias)
    convolution = (nn.ConvTranspose2d if transposed else nn.Conv2d)(before, after, **options)
    # torch counts the fan of (before, after, 3, 3), a transposed convolution's weight, the other way round
    nn.init.kaiming_normal_(
        convolution.weight,
        a=_SLOPE,
        mode='fan_out' if transposed else 'fan_in',
        nonlinearity='leaky_relu',
    )
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
