"""PKD: correlation between feature maps."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.models.losses import pkd_loss
from mmkd_plugin.models.methods.connected import ConnectedMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class PKD(ConnectedMethod):
    r"""Maximise the correlation of each channel with the teacher's, for any pairs of taps.

    .. math:: L = w \sum_p \frac{1}{C} \sum_c \bigl(1 - \rho(s^p_c, t^p_c)\bigr)

    Networks of different scale can be compared, such as detectors with other heads. There is no
    connector if the channels are equal, and a 1x1 convolution if they differ.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`. The paper pairs all
            levels of the pyramid.
        loss_weight: :math:`w`. The authors have 6 for two-stage detectors and GFL, and 10 for
            other detectors.

    Raises:
        ConfigError: If a pair lacks a tap, or a tap records no map.

    Example:
        >>> import torch
        >>> from mmkd_plugin.adapters import Probe, TeacherProbe
        >>> from mmkd_plugin.outputs import NetworkOutput
        >>> one = NetworkOutput(features={'neck': torch.tensor([[[[1.0, 2.0]]]])})
        >>> other = NetworkOutput(features={'neck': torch.tensor([[[[5.0, -5.0]]]])})
        >>> method = PKD([dict(student='neck', teacher='neck')])
        >>> method.build(Probe('student', one), [TeacherProbe('teacher', other, torch.nn.ReLU())])
        >>> method(one, [other], None)  # 6 (1 + 1)
        {'loss_pkd': tensor(12.)}

    Reference:
        Cao et al., PKD, NeurIPS 2022.
    """

    loss_name = 'loss_pkd'

    def __init__(self, pairs: Sequence[Mapping[str, Any]], loss_weight: float = 6.0) -> None:
        super().__init__(pairs, loss_weight=loss_weight)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        return pkd_loss(self.connect(number, student, teacher), teacher)
