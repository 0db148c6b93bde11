"""The autoencoder that turns a teacher's map into a factor that a student can learn."""

from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import positive_integer, positive_number
from mmkd_plugin.models.connectors.factor_encoder import FactorEncoder
from mmkd_plugin.models.connectors.three_convolutions import require_map, three_convolutions
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Paraphraser(nn.Module):
    r"""Encoder :math:`m \to m \to c \to c`, decoder :math:`c \to c \to m \to m`, each of three 3x3 convolutions.

    It learns to reconstruct a frozen teacher's map, by :class:`~mmkd_plugin.models.distillers.ParaphraserTrainer`; then its encoder
    alone gives the factor :math:`F_T` that students imitate.

    Args:
        in_channels: :math:`m`, of the teacher's map.
        factor_channels: :math:`c`. Default: ``factor_rate`` times m.
        factor_rate: :math:`k = c / m`, rounded to a whole number of channels, at least one.
        norm: ``'bn'`` as in IE-KD, ``'gn'``, or ``None`` as in factor transfer.
        last: How the decoder ends: ``'leaky_relu'`` with norm and LeakyReLU(0.1), as in the papers, for maps after a ReLU; ``'linear'`` for
            maps before the activation, whose negative values LeakyReLU gives a tenth of the gradient.
        transposed: Transposed convolutions in the decoder, as in the papers; False: plain ones, as in the code of IE-KD. At stride 1
            both can express the same.

    Shape: a map (N, m, H, W); its factor (N, c, H, W).

    Raises:
        ValueError: If an argument is out of range, or a map or a factor has other channels.

    Source: Kim et al., Paraphrasing Complex Network, NeurIPS 2018, section 3.1; Huang et al., Revisiting Knowledge Distillation,
    CVPR 2021 (code: aliyun/Revisiting-Knowledge-Distillation-an-Inheritance-and-Exploration-Framework).
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
        #: With these arguments its like can be built again.
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
        """The factor of a map."""
        encoded: Tensor = self.encoder(x)
        return encoded

    def decode(self, factor: Tensor) -> Tensor:
        """The map of a factor."""
        require_map('factor_channels', factor, self.factor_channels)
        decoded: Tensor = self.decoder(factor)
        return decoded

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of a map."""
        return self.decode(self.encode(x))
