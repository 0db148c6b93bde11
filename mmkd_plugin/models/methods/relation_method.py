"""Any registered loss on relations between the images of a batch, as a method."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.losses import RelationLoss
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.feature_method import build_loss
from mmkd_plugin.models.methods.tap_checks import check_channels, require_row_per_image
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class RelationMethod(Method):
    r"""Apply a loss to the embeddings of a batch, which need no equal dimensions.

    .. math:: L = \frac{w}{T} \sum_t \ell(A_S, A_t)

    An embedding is what the tap records, (N, D); a map (N, C, H, W) is averaged over H and W.

    Args:
        loss: Config of the loss :math:`\ell`, such as ``dict(type='DistanceLoss')``: a
            :class:`~mmkd_plugin.models.losses.RelationLoss`, which is called with the embeddings of
            the student and of a teacher.
        tap: Tap of the student, and of the teachers unless ``teacher_tap`` is set.
        teacher_tap: One tap for all teachers, or one each.
        loss_weight: :math:`w`.

    Raises:
        ConfigError: If the loss is unknown, refuses its arguments or compares image by image, or a
            tap records no embedding.

    Example:
        Distance-wise relational distillation in a config::

            methods=dict(
                rkd=dict(
                    type='RelationMethod',
                    loss=dict(type='DistanceLoss', loss_weight=25.0),
                    tap='neck',
                )
            )

        Distances that differ by a factor alone are equal:

        >>> student = NetworkOutput(features={'neck': torch.tensor([[0.0], [1.0], [3.0]])})
        >>> teacher = NetworkOutput(features={'neck': torch.tensor([[0.0], [2.0], [6.0]])})
        >>> RelationMethod(dict(type='DistanceLoss'), tap='neck')(student, [teacher], None)
        {'loss_relation': tensor(0.)}
    """

    loss_weight: float

    def __init__(
        self,
        loss: Mapping[str, Any],
        tap: str,
        teacher_tap: str | Sequence[str] | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        self.loss = build_loss(loss, RelationLoss)
        self.tap = tap
        self.teacher_tap = tap if teacher_tap is None else teacher_tap

    @property
    def active(self) -> bool:
        return super().active and getattr(self.loss, 'loss_weight', 1.0) > 0

    def requests(self, num_teachers: int) -> Requests:
        taps = teacher_taps_of(self.teacher_tap, num_teachers)
        return Requests((self.tap,), tuple((tap,) for tap in taps))

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        require_embeddings(student, self.tap, teachers, self.teacher_tap)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        own = embedding_of(student.feature(self.tap))
        taps = teacher_taps_of(self.teacher_tap, len(teachers))
        targets = [embedding_of(one.feature(tap)) for one, tap in zip(teachers, taps, strict=True)]
        losses = torch.stack([self.loss(own, target) for target in targets])
        return {'loss_relation': self.loss_weight * losses.mean()}


def teacher_taps_of(taps: str | Sequence[str], count: int) -> tuple[str, ...]:
    """Return the tap of each of ``count`` teachers.

    Args:
        taps: One tap for all teachers, or one each.
        count: Number of teachers.

    Raises:
        ConfigError: If there is another number of taps.
    """
    if isinstance(taps, str):
        return (taps,) * count
    if len(taps) != count:
        raise ConfigError(
            'teacher_tap', f'must be one tap, or one for each of {count} teachers', found=taps
        )
    return tuple(taps)


def require_embeddings(
    student: Probe, tap: str, teachers: Sequence[Probe], teacher_taps: str | Sequence[str]
) -> None:
    """Refuse taps that record no embedding of each image.

    Args:
        student: Probe of the student.
        tap: Tap of the student.
        teachers: Probes of the teachers.
        teacher_taps: See :func:`teacher_taps_of`.

    Raises:
        ConfigError: About ``tap`` or ``teacher_tap``.
    """
    check_channels('tap', None, student.feature(tap))
    require_row_per_image('tap', student, tap)
    every = teacher_taps_of(teacher_taps, len(teachers))
    for teacher, other in zip(teachers, every, strict=True):
        check_channels('teacher_tap', None, teacher.feature(other))
        require_row_per_image('teacher_tap', teacher, other)


def embedding_of(feature: Tensor) -> Tensor:
    """Return an embedding (N, D); a map (N, C, H, W) is averaged over H and W."""
    return feature.mean(dim=(2, 3)) if feature.ndim == 4 else feature
