"""Paired methods whose connector is inferred: a 1x1 convolution where the channels differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.models.connectors import HintRegressor
from mmkd_plugin.models.methods.paired import PairedMethod


class ConnectedMethod(PairedMethod):
    """A template: pairs of maps, behind a 1x1 convolution where their channels differ.

    A subclass implements ``pair_loss``, and calls :meth:`connect` in it.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        weights: See :class:`~mmkd_plugin.models.methods.Method`.
    """

    def __init__(self, pairs: Sequence[Mapping[str, Any]] | str, **weights: float) -> None:
        super().__init__(pairs, **weights)
        self.connectors = nn.ModuleList()

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        for source, target in channels:
            same = source == target
            self.connectors.append(nn.Identity() if same else HintRegressor(source, target))

    def connect(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the student's map of one pair with the channels of the teacher's."""
        connector = self.connectors[number]
        if isinstance(connector, nn.Identity):
            return student
        connected: Tensor = connector(student, teacher.shape[2:])
        return connected
