"""Hinton's soft targets, of one teacher or of an ensemble."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.errors import non_negative_number, one_of, positive_number
from mmkd_plugin.models.methods.base import Method
from mmkd_plugin.models.methods.locations import Locations
from mmkd_plugin.models.methods.scores import compared_scores
from mmkd_plugin.outputs import Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class SoftTarget(Method):
    r"""Match the teachers' softened class probabilities.

    .. math:: L = w\,\tau^2\,\mathrm{KL}(\bar p \,\|\, \mathrm{softmax}(z_S / \tau))

    The hard-label term is the student's own loss, weighted by the distiller's ``task_weight``.

    Args:
        temperature: :math:`\tau`, of both sides.
        loss_weight: :math:`w`.
        ensemble: How several teachers become :math:`\bar p`: the ``'arithmetic'`` mean of their probabilities, or the normalised
            ``'geometric'`` one (of their mean logits).
        locations: Which places of detectors teach, and how much: ``dict(weighting='foreground', background=0.05)``, see
            :class:`~mmkd_plugin.models.methods.locations.Locations`. Of their heads with a sigmoid every class is a distribution of its own.

    Raises:
        ValueError: If a number or the word is out of range.

    Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, sections 2 and 5.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        loss_weight: float = 1.0,
        ensemble: str = 'arithmetic',
        locations: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.temperature = positive_number('temperature', temperature)
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.ensemble = one_of('ensemble', ensemble, ('arithmetic', 'geometric'))
        self.locations = Locations.of(locations)

    @property
    def active(self) -> bool:
        return self.loss_weight > 0

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        scores = compared_scores(student, teachers, self.locations)
        softened = scores.teachers / self.temperature
        arithmetic = self.ensemble == 'arithmetic'
        target = (
            scores.probabilities(softened).mean(dim=1)
            if arithmetic
            else scores.probabilities(softened.mean(dim=1))
        )
        return {'loss_kd': self.loss_weight * scores.divergence(target.detach(), self.temperature)}
