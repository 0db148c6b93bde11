"""Attention transfer."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses import attention_transfer_loss
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.outputs import Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class AttentionTransfer(PairedMethod):
    r"""Look where the teacher looks: follow its spatial attention, for any pairs of taps and any numbers of channels.

    .. math:: L = w \sum_p \mathrm{mean}\,(Q_S^p - Q_T^p)^2

    with :math:`Q` the normalised mean over channels of :math:`f^2`; no connector, nothing to train.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        loss_weight: :math:`w`; 1000 is what comparisons on CIFAR use.

    Raises:
        ValueError: If a pair lacks a tap, or a tap gives no map.

    Source: Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017, eq. 2.
    """

    def __init__(self, pairs: Sequence[Mapping[str, Any]], loss_weight: float = 1000.0) -> None:
        super().__init__(pairs)
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    @property
    def active(self) -> bool:
        return self.loss_weight > 0

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        list(self.channels(student, teachers))  # checked; attention has none

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses = [
            attention_transfer_loss(source, target)
            for source, target in self.maps(student, teachers)
        ]
        return {'loss_attention': self.loss_weight * sum(losses[1:], losses[0])}
