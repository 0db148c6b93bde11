"""RKD: relational knowledge distillation by distances and angles."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.models.losses import angle_loss, distance_loss
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.relation_method import (
    embedding_of,
    require_embeddings,
    teacher_taps_of,
)
from mmkd_plugin.models.methods.tap_checks import few_rows
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class RKD(Method):
    r"""Match the distances between the embeddings of a batch, and the angles of its triplets.

    .. math:: L = w_d\,L_{distance} + w_a\,L_{angle}

    See :func:`~mmkd_plugin.models.losses.distance_loss` and
    :func:`~mmkd_plugin.models.losses.angle_loss`. An embedding is what the tap records, (N, D); a
    map (N, C, H, W) is averaged over H and W. The networks need no equal dimensions. Of several
    teachers the mean of the losses is taken. A batch of fewer than three images has no angle.

    Args:
        tap: Tap of the student, and of the teachers unless ``teacher_tap`` is set.
        teacher_tap: One tap for all teachers, or one each.
        distance_weight: :math:`w_d`.
        angle_weight: :math:`w_a`.

    Raises:
        ConfigError: If a weight is out of range, or a tap records no embedding.

    Example:
        >>> student = NetworkOutput(features={'neck': torch.tensor([[0.0], [1.0], [3.0]])})
        >>> teacher = NetworkOutput(features={'neck': torch.tensor([[0.0], [2.0], [6.0]])})
        >>> RKD(tap='neck')(student, [teacher], None)  # they differ by a factor alone
        {'loss_distance': tensor(0.), 'loss_angle': tensor(0.)}

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019, eq. 5-10; the weights are its own
        for both terms together.
    """

    distance_weight: float
    angle_weight: float

    def __init__(
        self,
        tap: str = 'neck',
        teacher_tap: str | Sequence[str] | None = None,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
    ) -> None:
        super().__init__(distance_weight=distance_weight, angle_weight=angle_weight)
        self.tap = tap
        self.teacher_tap = tap if teacher_tap is None else teacher_tap

    def requests(self, num_teachers: int) -> Requests:
        taps = teacher_taps_of(self.teacher_tap, num_teachers)
        return Requests((self.tap,), tuple((tap,) for tap in taps))

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        require_embeddings(
            student, self.tap, teachers, teacher_taps_of(self.teacher_tap, len(teachers))
        )

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        own = embedding_of(student.feature(self.tap))
        few_rows('RKD', len(own), 3)
        taps = teacher_taps_of(self.teacher_tap, len(teachers))
        targets = [embedding_of(one.feature(tap)) for one, tap in zip(teachers, taps, strict=True)]
        losses = {}
        if self.distance_weight > 0:
            distances = torch.stack([distance_loss(own, target) for target in targets])
            losses['loss_distance'] = self.distance_weight * distances.mean()
        if self.angle_weight > 0:
            angles = torch.stack([angle_loss(own, target) for target in targets])
            losses['loss_angle'] = self.angle_weight * angles.mean()
        return losses
