"""FitNets' hints."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.connectors import HintRegressor
from mmkd_plugin.models.losses import hint_loss
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.outputs import Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Hint(PairedMethod):
    r"""Regress the teacher's feature maps from the student's, for any pairs of taps.

    .. math:: L = w \sum_p \lVert u_p - F_p(v_p) \rVert^2

    with one regressor :math:`F_p` a pair and the mean over elements for the norm. FitNets trains in two stages: first the
    hint alone (``task_weight=0`` and no other method), then the student from that checkpoint with ``SoftTarget``; both at
    once is the one-stage form of later papers.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        loss_weight: :math:`w`.

    Raises:
        ValueError: If a pair lacks a tap, or stated channels are not those of the map.

    Source: Romero et al., FitNets, ICLR 2015, eq. 3.
    """

    maps_only = False

    def __init__(self, pairs: Sequence[Mapping[str, Any]], loss_weight: float = 1.0) -> None:
        super().__init__(pairs)
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.regressors = nn.ModuleList()

    @property
    def active(self) -> bool:
        return self.loss_weight > 0

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        for source, target in self.channels(student, teachers):
            self.regressors.append(HintRegressor(source, target))

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses = []
        for (source, target), regressor in zip(
            self.maps(student, teachers), self.regressors, strict=True
        ):
            losses.append(hint_loss(regressor(source, target.shape[2:]), target))
        return {'loss_hint': self.loss_weight * sum(losses[1:], losses[0])}
