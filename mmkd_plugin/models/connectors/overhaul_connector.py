"""From a student's pre-activation map to a teacher's."""

from torch import Tensor, nn

from mmkd_plugin.errors import positive_integer
from mmkd_plugin.models.connectors.three_convolutions import require_map
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class OverhaulConnector(nn.Module):
    """A 1x1 convolution without bias and BatchNorm; no activation, since the target is a map before its ReLU.

    Args:
        in_channels: Of the student's map.
        out_channels: Of the teacher's map.

    Shape: (N, C_in, H, W) to (N, C_out, H, W).

    Raises:
        ValueError: If a number of channels is not positive, or a map has other channels.

    Source: Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, section 3 (code: clovaai/overhaul-distillation, whose
    initialisation, He's by the outgoing connections, is taken).
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
        """Connect."""
        require_map('in_channels', x, self.in_channels)
        connected: Tensor = self.norm(self.convolution(x))
        return connected
