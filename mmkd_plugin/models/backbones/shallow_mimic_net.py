"""The shallow network of Ba & Caruana: one wide hidden layer, behind a linear bottleneck."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class ShallowMimicNet(BaseModule):
    r"""One hidden layer of H units, whose weights may be a product of two thin matrices.

    .. math:: h = \max(0,\, U V x + b), \quad V \in R^{k \times D}, \; U \in R^{H \times k}

    V is the module ``bottleneck``: k units without bias and without non-linearity. U and b are
    ``hidden.linear``. Without a bottleneck, W of H x D takes the place of UV. The two networks
    compute the same functions if k is at least the smaller of H and D.

    x has D entries. They are the pixels of the image, or, with ``conv_channels=C``, the maps of
    ``stem``: a convolution that keeps the size, a ReLU and max pooling.

    The parameters, with a kernel of side K:

    - ``stem``: C (``in_channels`` K² + 1)
    - ``bottleneck`` and ``hidden``: k D + H (k + 1)
    - ``hidden`` without a bottleneck: H (D + 1)

    A bottleneck saves parameters and work only if k < H D / (H + D). A larger k is allowed. No
    layer is normalised, so a wider layer needs a smaller learning rate.

    The output is (N, H), so the head follows at once. The config of a classifier has no ``neck``:
    ``GlobalAveragePooling`` needs maps. The head's ``in_channels`` is H. The taps are
    ``backbone.stem``, ``backbone.bottleneck``, ``backbone.hidden`` and, before the ReLU,
    ``backbone.hidden.linear``.

    Args:
        hidden_channels: H, the width of the hidden layer.
        bottleneck_channels: k, the width of the linear layer. None: no such layer.
        conv_channels: C, the channels of the convolution. None: no convolution and no pooling.
        in_channels: Channels of the image.
        input_size: Height and width of the image; one number for a square.
        kernel_size: K, the side of the convolution's kernel, odd.
        pool_size: Side of the pooling's window. It lies within the map.
        pool_stride: Stride of the pooling.
        init_cfg: MMEngine's initialisation. By default Kaiming's, with the fan of the inputs and
            the gain of what follows: of a ReLU, or 1 for the bottleneck.

    Shape:
        Images (N, in_channels, height, width) to a tuple with one tensor (N, hidden_channels).

    Raises:
        ConfigError: If a number is not a positive integer, ``kernel_size`` is even, or
            ``pool_size`` is larger than the image; in the forward, if the images have another
            shape than ``in_channels`` and ``input_size`` state.

    Example:
        >>> import torch
        >>> net = ShallowMimicNet(1000, bottleneck_channels=50, in_channels=1, input_size=28)
        >>> [feature] = net(torch.rand(2, 1, 28, 28))
        >>> feature.shape
        torch.Size([2, 1000])
        >>> sum(p.numel() for p in net.parameters())  # 50 * 784 + 1000 * 51, not 1000 * 785
        90200

    Reference:
        Ba & Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014: the mimic networks and their
        linear layer.
    """

    def __init__(
        self,
        hidden_channels: int,
        bottleneck_channels: int | None = None,
        conv_channels: int | None = None,
        in_channels: int = 3,
        input_size: int | Sequence[int] = 32,
        kernel_size: int = 5,
        pool_size: int = 3,
        pool_stride: int = 2,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(_init_cfg(bottleneck_channels) if init_cfg is None else init_cfg)
        positive_integer(self.key('hidden_channels'), hidden_channels)
        height, width = _sides(self.key('input_size'), input_size)
        self.in_channels = positive_integer(self.key('in_channels'), in_channels)
        self.input_size = height, width  # where the dry run of a distiller finds it
        channels, self.stem = in_channels, nn.Sequential()
        if conv_channels is not None:
            channels = positive_integer(self.key('conv_channels'), conv_channels)
            if positive_integer(self.key('kernel_size'), kernel_size) % 2 == 0:
                raise ConfigError(self.key('kernel_size'), 'must be odd', found=kernel_size)
            if positive_integer(self.key('pool_size'), pool_size) > min(height, width):
                raise ConfigError(
                    self.key('pool_size'),
                    f'must be at most the side of the image, {min(height, width)}',
                    found=pool_size,
                )
            stride = positive_integer(self.key('pool_stride'), pool_stride)
            self.stem = _named(
                conv=nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2),
                relu=nn.ReLU(),  # not in place, since its input can be tapped
                pool=nn.MaxPool2d(pool_size, stride),
            )
            height, width = ((side - pool_size) // stride + 1 for side in (height, width))
        inputs = channels * height * width
        self.bottleneck: nn.Module = nn.Identity()
        if bottleneck_channels is not None:
            k = positive_integer(self.key('bottleneck_channels'), bottleneck_channels)
            self.bottleneck = nn.Linear(inputs, k, bias=False)  # the bias of hidden has its effect
            inputs = k
        self.hidden = _named(linear=nn.Linear(inputs, hidden_channels), relu=nn.ReLU())

    @classmethod
    def key(cls, argument: str) -> str:
        """Return the key of an argument in errors, such as ``'ShallowMimicNet.input_size'``."""
        return f'{cls.__name__}.{argument}'

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return the output of the hidden layer after its ReLU, in a tuple.

        Raises:
            ConfigError: If the images have another shape than the network was built for.
        """
        expected = self.in_channels, *self.input_size
        if tuple(x.shape[1:]) != expected:
            raise ConfigError(
                self.key('input_size'),
                f'the network was built for images of (channels, height, width) = {expected}',
                'Set in_channels and input_size to the shape of the images, or resize these.',
                found=tuple(x.shape[1:]),
            )
        feature: Tensor = self.hidden(self.bottleneck(self.stem(x).flatten(1)))
        return (feature,)


def _named(**layers: nn.Module) -> nn.Sequential:
    """Build layers in a row, each with a name."""
    return nn.Sequential(OrderedDict(layers))


def _sides(key: str, size: Any) -> tuple[int, int]:
    """Return height and width of an input size."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or min(sides) < 1:
        raise ConfigError(key, 'must be an integer >= 1 or a pair of them', found=size)
    return sides[0], sides[1]


def _init_cfg(bottleneck: int | None) -> list[dict[str, Any]]:
    """Return the default initialisation.

    No layer is normalised, so the outputs keep their scale by the fan of the inputs alone.
    """
    layers: dict[str, Any] = dict(type='Kaiming', layer=['Conv2d', 'Linear'], mode='fan_in')
    if bottleneck is not None:
        layers['override'] = dict(
            type='Kaiming', name='bottleneck', mode='fan_in', nonlinearity='linear'
        )
    return [layers]
