"""Hints of FitNets."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.probe import TeacherProbe
from mmkd_plugin.models.connectors import HintRegressor
from mmkd_plugin.models.losses import hint_loss
from mmkd_plugin.models.methods.paired import PairedMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Hint(PairedMethod):
    r"""Regress the teacher's feature maps from the student's, for any pairs of taps.

    .. math:: L = w \sum_p \lVert u_p - F_p(v_p) \rVert^2

    with one regressor :math:`F_p` a pair and the mean over elements for the norm. FitNets trains in
    two stages: first the hint alone (``task_weight=0`` and no other method), then the student from
    that checkpoint with ``SoftTarget``. Both at once is the one-stage form of later papers.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`.
        loss_weight: :math:`w`.

    Raises:
        ConfigError: If a pair lacks a tap, or stated channels are not those of the map.

    Example:
        >>> import torch
        >>> from mmkd_plugin.adapters import Probe
        >>> from mmkd_plugin.outputs import NetworkOutput
        >>> student = NetworkOutput(features={'layer3': torch.rand(2, 8, 4, 4)})
        >>> teacher = NetworkOutput(features={'layer3': torch.rand(2, 32, 4, 4)})
        >>> hint = Hint([dict(student='layer3', teacher='layer3')])
        >>> hint.build(Probe('student', student), [TeacherProbe('teacher', teacher, nn.Identity())])
        >>> hint.regressors[0].weight.shape
        torch.Size([32, 8])
        >>> list(hint(student, [teacher], None))
        ['loss_hint']

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, eq. 3.
    """

    loss_name = 'loss_hint'
    maps_only = False

    def __init__(self, pairs: Sequence[Mapping[str, Any]] | str, loss_weight: float = 1.0) -> None:
        super().__init__(pairs, loss_weight=loss_weight)
        self.regressors = nn.ModuleList()

    def build_connectors(
        self, channels: Sequence[tuple[int, int]], teachers: Sequence[TeacherProbe]
    ) -> None:
        self.regressors.extend(HintRegressor(*pair) for pair in channels)

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        return hint_loss(self.regressors[number](student, teacher.shape[2:]), teacher)
