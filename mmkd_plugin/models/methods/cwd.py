"""CWD: the distribution of each channel over the map."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses import cwd_loss
from mmkd_plugin.models.methods.connected import ConnectedMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class CWD(ConnectedMethod):
    r"""Match where each channel is active, for any pairs of taps.

    .. math:: L = w \sum_p \frac{\tau^2}{N C} \sum_{n, c} \mathrm{KL}\bigl(
              \mathrm{softmax}_{hw}(t^p_{nc} / \tau) \,\|\, \mathrm{softmax}_{hw}(s^p_{nc} / \tau)
              \bigr)

    There is no connector if the channels are equal, and a 1x1 convolution if they differ.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`: levels of the pyramid,
            or the convolution of a head that outputs the class scores.
        temperature: :math:`\tau`. The default 1 is for features; the authors have 4 for class
            scores.
        loss_weight: :math:`w`; 10 is for levels of a pyramid.

    Raises:
        ConfigError: If a pair lacks a tap, a tap records no map, or the temperature is not > 0.

    Example:
        In a config, on the class scores of a segmentor::

            methods=dict(
                cwd=dict(
                    type='CWD',
                    temperature=4.0,
                    loss_weight=3.0,
                    pairs=[dict(student='decode_head.conv_seg', teacher='decode_head.conv_seg')],
                )
            )

    Reference:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021.
    """

    loss_name = 'loss_cwd'

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]],
        temperature: float = 1.0,
        loss_weight: float = 10.0,
    ) -> None:
        super().__init__(pairs, loss_weight=loss_weight)
        self.temperature = positive_number('temperature', temperature)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        return cwd_loss(self.connect(number, student, teacher), teacher, self.temperature)
