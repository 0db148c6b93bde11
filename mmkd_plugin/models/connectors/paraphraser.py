"""The autoencoder that compresses a teacher's map into a factor."""

from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import positive_integer, positive_number
from mmkd_plugin.models.connectors.factor_encoder import (
    FactorEncoder,
    require_map,
    three_convolutions,
)
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Paraphraser(nn.Module):
    r"""Encode a map by :math:`m \to m \to c \to c` and decode it by :math:`c \to c \to m \to m`.

    Encoder and decoder are three 3x3 convolutions each.
    :class:`~mmkd_plugin.models.distillers.ParaphraserTrainer` trains them to reconstruct the map of
    a frozen teacher. The encoder alone then computes the factor :math:`F_T` that students imitate.

    Args:
        in_channels: :math:`m`, the channels of the teacher's map.
        factor_channels: :math:`c`. Default: ``factor_rate`` times m.
        factor_rate: :math:`k = c / m`, rounded to a whole number of channels, at least one.
        norm: ``'bn'`` as in IE-KD, ``'gn'``, or None as in factor transfer.
        last: How the decoder ends. ``'leaky_relu'`` with norm and LeakyReLU(0.1), as in the papers,
            suits maps after a ReLU. ``'linear'`` suits maps before the activation: LeakyReLU would
            give their negative values a tenth of the gradient.
        transposed: Use transposed convolutions in the decoder, as in the papers. False uses plain
            ones, as in the code of IE-KD. At stride 1 both can express the same.

    Attributes:
        arguments: The arguments that build the same architecture again.

    Shape:
        (N, m, H, W) to (N, m, H, W); the factor is (N, c, H, W).

    Raises:
        ConfigError: If an argument is out of range, or if a map or a factor has other channels.

    Example:
        >>> import torch
        >>> paraphraser = Paraphraser(in_channels=16, factor_rate=0.5)
        >>> feature = torch.rand(2, 16, 4, 4)
        >>> paraphraser.encode(feature).shape
        torch.Size([2, 8, 4, 4])
        >>> paraphraser(feature).shape
        torch.Size([2, 16, 4, 4])

    Reference:
        Kim et al., Paraphrasing Complex Network, NeurIPS 2018, section 3.1; Huang et al.,
        Revisiting Knowledge Distillation, CVPR 2021 (code:
        aliyun/Revisiting-Knowledge-Distillation-an-Inheritance-and-Exploration-Framework).
    """

    def __init__(
        self,
        in_channels: int,
        factor_channels: int | None = None,
        factor_rate: float = 0.5,
        norm: str | None = 'bn',
        last: str = 'leaky_relu',
        transposed: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = positive_integer('in_channels', in_channels)
        rate = positive_number('factor_rate', factor_rate)
        if factor_channels is None:
            factor_channels = max(1, round(rate * in_channels))
        self.factor_channels = positive_integer('factor_channels', factor_channels)
        self.arguments: dict[str, Any] = dict(
            in_channels=in_channels,
            factor_channels=factor_channels,
            norm=norm,
            last=last,
            transposed=bool(transposed),
        )
        self.encoder = FactorEncoder(in_channels, factor_channels, norm)
        backwards = (factor_channels, factor_channels, in_channels, in_channels)
        self.decoder = three_convolutions(backwards, norm, bool(transposed), last)

    def encode(self, x: Tensor) -> Tensor:
        """Return the factor (N, c, H, W) of a map (N, m, H, W)."""
        encoded: Tensor = self.encoder(x)
        return encoded

    def decode(self, factor: Tensor) -> Tensor:
        """Return the map (N, m, H, W) of a factor (N, c, H, W)."""
        require_map('factor_channels', factor, self.factor_channels)
        decoded: Tensor = self.decoder(factor)
        return decoded

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of a map."""
        return self.decode(self.encode(x))
