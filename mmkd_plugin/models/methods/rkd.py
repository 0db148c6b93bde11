"""RKD: distances and angles between the images of a batch."""

from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.losses import angle_loss, distance_loss
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.relation_method import (
    embedding_of,
    require_embeddings,
    teacher_taps_of,
)
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class RKD(Method):
    r"""Match the relative distances and the angles between the images of a batch.

    .. math:: L = \frac{1}{T} \sum_t \bigl( w_d\,L_{distance}(A_S, A_t)
              + w_a\,L_{angle}(A_S, A_t) \bigr)

    with :func:`~mmkd_plugin.models.losses.relation_distance_loss` and
    :func:`~mmkd_plugin.models.losses.angle_loss`. The embeddings need no equal dimensions. Two
    images or fewer have no relations: the losses are 0, which is logged once.

    Args:
        distance_weight: :math:`w_d`.
        angle_weight: :math:`w_a`.
        tap: Tap of the embedding (N, D); a map (N, C, H, W) is averaged over H and W. None: the
            class scores before the activation, of classifiers.
        teacher_tap: One tap for all teachers, or one each; as ``tap`` by default.

    Raises:
        ConfigError: If a weight is out of range, a tap records no embedding, or the class scores
            are those of a detector.

    Example:
        >>> student = NetworkOutput(features={'neck': torch.tensor([[0.0], [1.0], [3.0]])})
        >>> teacher = NetworkOutput(features={'neck': torch.tensor([[0.0], [2.0], [6.0]])})
        >>> RKD(tap='neck')(student, [teacher], None)
        {'loss_distance': tensor(0.), 'loss_angle': tensor(0.)}

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019.
    """

    distance_weight: float
    angle_weight: float

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        tap: str | None = None,
        teacher_tap: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(distance_weight=distance_weight, angle_weight=angle_weight)
        if tap is None and teacher_tap is not None:
            raise ConfigError('tap', 'is missing beside teacher_tap', found=None)
        self.tap = tap
        self.teacher_tap = teacher_tap or tap or ()
        self._logged = False

    def requests(self, num_teachers: int) -> Requests:
        if self.tap is None:
            return Requests(teachers=((),) * num_teachers, scores=True)
        taps = teacher_taps_of(self.teacher_tap, num_teachers)
        return Requests((self.tap,), tuple((tap,) for tap in taps))

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        if self.tap is None:
            scores = student.output.scores
            if scores is not None and not scores.per_image:
                raise ConfigError(
                    'tap',
                    'must be set for detectors, whose class scores are those of locations',
                    "Tap a map of the images, such as tap='backbone[-1]'.",
                    found=None,
                )
            return
        require_embeddings(student, self.tap, teachers, self.teacher_tap)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        own, targets = self._embeddings(student, teachers)
        if len(own) < 3 and not self._logged:
            self._logged = True
            print_log(
                f'RKD: a batch of {len(own)} has no relations between images, so its losses are 0',
                logger='current',
                level=30,
            )
        parts = dict(
            distance=(self.distance_weight, distance_loss),
            angle=(self.angle_weight, angle_loss),
        )
        losses = {}
        for name, (weight, loss) in parts.items():
            if weight > 0:
                each = [loss(own, target) for target in targets]
                losses[f'loss_{name}'] = weight * torch.stack(each).mean()
        return losses

    def _embeddings(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput]
    ) -> tuple[Tensor, list[Tensor]]:
        if self.tap is None:
            scores = [one.scores for one in (student, *teachers)]
            own, *targets = (one.logits[:, 0] for one in scores if one is not None)
            return own, targets
        taps = teacher_taps_of(self.teacher_tap, len(teachers))
        targets = [embedding_of(one.feature(tap)) for one, tap in zip(teachers, taps, strict=True)]
        return embedding_of(student.feature(self.tap)), targets
