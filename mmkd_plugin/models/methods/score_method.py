"""A template of methods that match the class scores of one or several teachers."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError, one_of, positive_number
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.divergences import Divergence, mixed_logits
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.models.methods.teacher_mixture import (
    OBJECTIVES,
    TeacherMixture,
    require_scores,
    standardized,
)
from mmkd_plugin.outputs import NetworkOutput, ScoreRows, score_rows


class ScoreMethod(Method):
    """One divergence of the student's class scores from those of the teachers.

    Args:
        divergence: The divergence.
        temperature: Divides the logits of both sides.
        loss_weight: Weight of the loss.
        ensemble: How several teachers become one target: the ``'arithmetic'`` mean of their
            probabilities, or the normalised ``'geometric'`` one (of their mean logits).
        weighting: Rule that weighs the teachers for each image, in place of a mean.
        objective: How a weighting learns.
        embedding_tap: The student's embedding, for a weighting; found by default.
        locations: Weights of the locations of detectors.
        standardize: Whether the logits of both sides are standardised.

    Raises:
        ConfigError: If a number or a word is out of range, or ``ensemble='geometric'`` stands
            beside a weighting.
    """

    #: Name of the loss in logs.
    loss_name: ClassVar[str]
    loss_weight: float

    def __init__(
        self,
        divergence: Divergence,
        temperature: float,
        loss_weight: float,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'paper',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        self.divergence = divergence
        self.temperature = positive_number('temperature', temperature)
        self.ensemble = one_of('ensemble', ensemble, ('arithmetic', 'geometric'))
        self.locations = LocationWeights.from_config(locations)
        self.standardize = bool(standardize)
        one_of('objective', objective, OBJECTIVES)
        self.mixture: TeacherMixture | None = None
        if weighting is not None:
            if ensemble != 'arithmetic':
                raise ConfigError(
                    'ensemble',
                    "must be 'arithmetic' beside a weighting, which mixes probabilities",
                    found=ensemble,
                )
            self.mixture = TeacherMixture(
                weighting,
                objective,
                embedding_tap,
                self.temperature,
                self.locations,
                divergence=divergence,
                standardize=self.standardize,
            )

    def requests(self, num_teachers: int) -> Requests:
        if self.mixture is not None:
            return self.mixture.requests(num_teachers)
        labels = self.divergence.needs_labels
        return Requests(
            teachers=((),) * num_teachers, scores=True, labels=labels, needs_labels=labels
        )

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        if self.mixture is not None:
            self.mixture.build(student, teachers)
        else:
            require_scores(student, self.divergence, self.standardize)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        if self.mixture is not None:
            mixed = self.mixture(student, teachers, labels)
            loss = self.loss_weight * mixed.divergence()
            return {self.loss_name: loss, **mixed.learning, **mixed.metrics}
        rows = score_rows(student, teachers, self.locations)
        if self.standardize:
            rows = standardized(rows)
        temperature = float(self.temperature)
        target = self._mean(rows, temperature).detach()
        loss = self.divergence(rows, target, temperature, labels)
        return {self.loss_name: self.loss_weight * loss}

    def _mean(self, rows: ScoreRows, temperature: float) -> Tensor:
        if self.divergence.from_logits:
            if self.ensemble == 'arithmetic':
                return mixed_logits(rows, None, temperature)
            return rows.teachers.mean(dim=1)
        softened = rows.teachers / temperature
        if self.ensemble == 'arithmetic':
            return rows.probabilities(softened).mean(dim=1)
        return rows.probabilities(softened.mean(dim=1))
