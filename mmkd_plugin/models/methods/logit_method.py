"""The base of methods that compare class distributions by a loss of their own."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError, one_of, positive_number
from mmkd_plugin.models.methods.base import Requests
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.models.methods.log_targets import log_targets, require_softmax, standardized
from mmkd_plugin.models.methods.mixture_loss import LABEL_FIX, MixtureLoss
from mmkd_plugin.models.methods.teacher_mixture import OBJECTIVES, Mixture, TeacherMixture
from mmkd_plugin.outputs import NetworkOutput, ScoreRows, score_rows

#: The targets as logits at a temperature, (R, C); see :func:`log_targets`.
Targets = Callable[[float], Tensor]


class LogitMethod(MixtureLoss):
    r"""Compare the student's class distribution with that of its teachers.

    A subclass computes the loss in :meth:`divergence`. The targets are those of
    :class:`~mmkd_plugin.models.methods.soft_target.SoftTarget`: the mean of the teachers'
    probabilities, or their mixture with weights of each image. It needs a softmax, unless a
    subclass overrides :meth:`require_distribution`.

    Args:
        temperature: :math:`\tau`, of both sides.
        loss_weight: Weight of the loss.
        standardize: Standardise the logits of each network over the classes first.
        ensemble: How several teachers become one target: ``'arithmetic'`` or ``'geometric'`` mean.
        weighting: Rule that weighs the teachers for each image, in place of a mean.
        objective: How a weighting learns; see
            :class:`~mmkd_plugin.models.methods.teacher_mixture.TeacherMixture`.
        embedding_tap: The student's embedding, for a weighting; found by default.
        locations: Weights of the locations of detectors; see
            :class:`~mmkd_plugin.models.methods.location_weights.LocationWeights`.

    Raises:
        ConfigError: If a number or a word is out of range.

    Attributes:
        loss_name: Name of the loss in logs.
    """

    loss_name = 'loss_kd'
    loss_weight: float

    def __init__(
        self,
        temperature: float,
        loss_weight: float = 1.0,
        standardize: bool = False,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'label',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        self.temperature = positive_number('temperature', temperature)
        self.standardize = bool(standardize)
        self.ensemble = one_of('ensemble', ensemble, ('arithmetic', 'geometric'))
        self.locations = LocationWeights.from_config(locations)
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
                teaches=self.teaches_weighting,
                standardize=self.standardize,
            )
            self.require_objective(self.mixture)

    @abstractmethod
    def divergence(self, rows: ScoreRows, targets: Targets, labels: Tensor | None) -> Tensor:
        """Compute the loss without its weight.

        Args:
            rows: Class scores of the student and the weights of the rows.
            targets: Returns the targets as logits at a temperature.
            labels: Labels of the images; None if the batch has none.
        """

    def require_distribution(self, student: Probe) -> None:
        """Refuse heads whose outputs are no distribution over two or more classes.

        Raises:
            ConfigError: If the head has a sigmoid, or one class.
        """
        name = type(self).__name__
        why = f'because {name} divides one distribution into the label and the other classes'
        fix = "Use 'DIST', 'SoftTarget', or for dense detectors 'BCKD', which take a sigmoid."
        require_softmax('type', student, why, fix, name)

    def requests(self, num_teachers: int) -> Requests:
        if self.mixture is None:
            labels = self.uses_labels
            return Requests(
                teachers=((),) * num_teachers,
                scores=True,
                labels=labels,
                needs_labels=labels,
                label_fix=LABEL_FIX if labels else '',
            )
        one = self.mixture.requests(num_teachers)
        return Requests(
            student=one.student,
            teachers=one.teachers,
            scores=True,
            labels=True,
            needs_labels=one.needs_labels or self.uses_labels,
            label_fix=LABEL_FIX if self.uses_labels else one.label_fix,
            read_only=one.read_only,
        )

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        self.require_distribution(student)
        if self.mixture is not None:
            self.mixture.build(student, teachers)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        if self.mixture is not None:
            mixed = self.mixture(student, teachers, labels)
            divergence = self.mixed_divergence(mixed, student, teachers, labels)
            return {
                self.loss_name: self.loss_weight * divergence,
                **mixed.learning,
                **mixed.metrics,
            }
        rows = score_rows(student, teachers, self.locations)
        if self.standardize:
            rows = standardized(rows)
        targets = partial(log_targets, rows, ensemble=self.ensemble)
        return {self.loss_name: self.loss_weight * self.divergence(rows, targets, labels)}

    def mixed_divergence(
        self,
        mixed: Mixture,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        labels: Tensor | None,
    ) -> Tensor:
        return self.divergence(mixed.rows, mixed.log_target, labels)


def labels_of(name: str, rows: ScoreRows, targets: Targets, labels: Tensor | None) -> Tensor:
    """Return the class of each row, (R,).

    A location of a detector has no label without an assigner. The class that the targets find most
    probable there takes its place; it may be the background.

    Args:
        name: Name of the method, for the message.
        rows: Class scores.
        targets: Returns the targets as logits at a temperature.
        labels: Labels of the images.

    Raises:
        ConfigError: If the images have no labels, or no single class each.
    """
    if rows.images is not None:
        return targets(1.0).detach().argmax(dim=1)
    if labels is None:
        raise ConfigError('', f'{name} needs labels, and the batch has none')
    if labels.ndim != 1:
        raise ConfigError(
            '',
            f'{name} needs one class of each image, and the batch has shares of several, as after '
            'Mixup and CutMix',
            "Remove the batch augmentations, or use 'SoftTarget' or 'DIST', which need no label.",
            found=tuple(labels.shape),
        )
    return labels
