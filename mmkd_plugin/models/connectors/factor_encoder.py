"""From a student's map, or a part of one, to the shape of a teacher's factor."""

from torch import Tensor, nn

from mmkd_plugin.errors import positive_integer
from mmkd_plugin.models.connectors.three_convolutions import require_map, three_convolutions
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class FactorEncoder(nn.Module):
    r"""Three 3x3 convolutions :math:`C_{in} \to C_{in} \to c \to c`, each with norm and LeakyReLU(0.1): a paraphraser's first half.

    With ``norm=None`` it is the translator of factor transfer: the same three convolutions with biases and LeakyReLU(0.1) after each, also
    the last, and no norm. IE-KD's encoders have BatchNorm; its authors' code puts one LeakyReLU more before the first convolution, which
    does nothing to a map after ReLU, and is left out here.

    Args:
        in_channels: Of the student's map.
        factor_channels: :math:`c`, of the teacher's factor.
        norm: ``'bn'``, ``'gn'``, or ``None``.

    Shape: (N, C_in, H, W) to (N, c, H, W).

    Raises:
        ValueError: If an argument is out of range, or a map has other channels.

    Source: Kim et al., Paraphrasing Complex Network, NeurIPS 2018, section 3.2 (code: Jangho-Kim/Factor-Transfer-pytorch); Huang et al.,
    Revisiting Knowledge Distillation, CVPR 2021.
    """

    def __init__(self, in_channels: int, factor_channels: int, norm: str | None = 'bn') -> None:
        super().__init__()
        self.in_channels = positive_integer('in_channels', in_channels)
        self.factor_channels = positive_integer('factor_channels', factor_channels)
        self.layers = three_convolutions(
            (in_channels, in_channels, factor_channels, factor_channels), norm
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        require_map('in_channels', x, self.in_channels)
        encoded: Tensor = self.layers(x)
        return encoded
