"""Attention transfer."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.models.losses.attention_transfer import attention_difference, attention_map
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.registry import MODELS

#: Name of the reduction of a map to its attention.
ATTENTION = 'attention'


@MODELS.register_module()
class AttentionTransfer(PairedMethod):
    r"""Match the teacher's spatial attention, for any pairs of taps and any numbers of channels.

    .. math:: L = w \sum_p \mathrm{mean}\,(Q_S^p - Q_T^p)^2

    with :math:`Q` the normalised mean over channels of :math:`f^2`. There is no connector.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        loss_weight: :math:`w`; comparisons on CIFAR use 1000.

    Raises:
        ConfigError: If a pair lacks a tap, or a tap records no map.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import NetworkOutput
        >>> student = NetworkOutput(features={'layer3': torch.tensor([[[[0.0, 2.0]]]])})
        >>> teacher = NetworkOutput(features={'layer3': torch.tensor([[[[1.0, 0.0]]]])})
        >>> method = AttentionTransfer([dict(student='layer3', teacher='layer3')], loss_weight=1.0)
        >>> method(student, [teacher], None)  # (1 + 1) / 2
        {'loss_attention': tensor(1.)}

    Reference:
        Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2.
    """

    loss_name = 'loss_attention'

    def __init__(
        self, pairs: Sequence[Mapping[str, Any]] | str, loss_weight: float = 1000.0
    ) -> None:
        super().__init__(pairs, loss_weight=loss_weight)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        return attention_difference(attention_map(student), teacher)

    def reduce(self, number: int, teacher: Tensor) -> Tensor:
        return teacher_attention(teacher)

    def reduction_name(self, number: int) -> str:
        return ATTENTION


def teacher_attention(feature: Tensor) -> Tensor:
    """Return the attention map of a teacher's map, without gradient."""
    return attention_map(feature.detach())
