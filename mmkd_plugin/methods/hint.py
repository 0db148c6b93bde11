"""FitNets' hints."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.checks import weight
from mmkd_plugin.connectors import HintRegressor
from mmkd_plugin.knowledge import Knowledge
from mmkd_plugin.losses import hint_loss
from mmkd_plugin.methods.base import Method
from mmkd_plugin.methods.channels import feature, stated_channels
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class Hint(Method):
    r"""Regress the teacher's feature maps from the student's, for any pairs of taps.

    .. math:: L = w \sum_p \lVert u_p - F_p(v_p) \rVert^2

    with one regressor :math:`F_p` a pair and the mean over elements for the norm. FitNets trains in two stages: first the
    hint alone (``task_weight=0`` and no other method), then the student from that checkpoint with ``SoftTarget``; both at
    once is the one-stage form of later papers.

    Args:
        pairs: ``dict(student='backbone.layer2', teacher='backbone.layer2')`` each; ``index`` names the teacher (0),
            ``student_channels`` and ``teacher_channels`` may be stated, otherwise they are inferred.
        loss_weight: :math:`w`.

    Raises:
        ValueError: If a pair lacks a tap, or stated channels are not those of the map.

    Source: Romero et al., FitNets, ICLR 2015, eq. 3.
    """

    needs_scores = False

    def __init__(self, pairs: Sequence[Mapping[str, Any]], loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = weight('loss_weight', loss_weight)
        if not isinstance(pairs, (list, tuple)) or not pairs:
            raise ValueError(f'pairs: expected a list of dict(student=…, teacher=…), got {pairs!r}')
        for number, pair in enumerate(pairs):
            known = {'student', 'teacher', 'index', 'student_channels', 'teacher_channels'}
            if not isinstance(pair, Mapping) or not {'student', 'teacher'} <= pair.keys() <= known:
                raise ValueError(
                    f'pairs[{number}]: expected dict(student=…, teacher=…) and of {sorted(known)}, got {pair!r}'
                )
        self.pairs = [dict(pair) for pair in pairs]
        self.student_taps = tuple(pair['student'] for pair in pairs)
        self.regressors = nn.ModuleList()

    @property
    def active(self) -> bool:
        return self.loss_weight > 0

    def taps_of_teacher(self, index: int, count: int) -> tuple[str, ...]:
        for number, pair in enumerate(self.pairs):
            if pair.get('index', 0) not in range(count):
                raise ValueError(f'pairs[{number}].index: expected one of {count} teachers, got {pair["index"]!r}')
        return tuple(pair['teacher'] for pair in self.pairs if pair.get('index', 0) == index)

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        for number, pair in enumerate(self.pairs):
            source, target = self._features(pair, student, teachers)
            channels = stated_channels(f'pairs[{number}].student_channels', pair.get('student_channels'), source)
            wanted = stated_channels(f'pairs[{number}].teacher_channels', pair.get('teacher_channels'), target)
            self.regressors.append(HintRegressor(channels, wanted))

    def forward(self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None) -> dict[str, Tensor]:
        losses = []
        for pair, regressor in zip(self.pairs, self.regressors, strict=True):
            source, target = self._features(pair, student, teachers)
            losses.append(hint_loss(regressor(source, target.shape[2:]), target))
        return {'loss_hint': self.loss_weight * sum(losses[1:], losses[0])}

    def _features(
        self, pair: Mapping[str, Any], student: Knowledge, teachers: Sequence[Knowledge]
    ) -> tuple[Tensor, Tensor]:
        return feature(student, pair['student']), feature(teachers[pair.get('index', 0)], pair['teacher'])
