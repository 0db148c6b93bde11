"""Soft targets of one teacher, of an ensemble, or of teachers that are weighed for each image."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.models.losses import soft_target_loss
from mmkd_plugin.models.methods.log_targets import require_standardizable, standardized
from mmkd_plugin.models.methods.logit_method import LogitMethod, Targets
from mmkd_plugin.outputs import NetworkOutput, ScoreRows, score_rows
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class SoftTarget(LogitMethod):
    r"""Match the teachers' softened class probabilities.

    .. math:: L = w\,\tau^2\,\mathrm{KL}(\bar p \,\|\, \mathrm{softmax}(z_S / \tau))

    The hard-label term is the student's own loss, weighted by the distiller's ``task_weight``.

    Args:
        temperature: :math:`\tau`, of both sides.
        loss_weight: :math:`w`.
        ensemble: How several teachers become :math:`\bar p`: the ``'arithmetic'`` mean of their
            probabilities, or the normalised ``'geometric'`` one (of their mean logits).
        weighting: Rule that weighs the teachers for each image, such as
            ``dict(type='LatentTeacherWeighting')``, in place of a mean.
        objective: How a weighting learns; see
            :class:`~mmkd_plugin.models.methods.teacher_mixture.TeacherMixture`.
        embedding_tap: The student's embedding, for a weighting; found by default.
        locations: Weights of the locations of detectors:
            ``dict(weighting='foreground', background=0.05)``, see
            :class:`~mmkd_plugin.models.methods.location_weights.LocationWeights`. In heads with a
            sigmoid every class is a distribution of two outcomes.
        standardize: Standardise the logits of each network over the classes before they are divided
            by the temperature; see :func:`~mmkd_plugin.models.losses.standardize_logits`. It needs
            a softmax over two or more classes.

    Raises:
        ConfigError: If a number or a word is out of range, or ``ensemble='geometric'`` stands
            beside a weighting, which mixes probabilities.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores
        >>> student = NetworkOutput(ClassScores.of_images(torch.zeros(1, 2)))
        >>> teacher = NetworkOutput(ClassScores.of_images(torch.tensor([[9.0, 1.0]]).log()))
        >>> SoftTarget(temperature=2.0)(student, [teacher], None)  # 4 KL((3/4, 1/4) || (1/2, 1/2))
        {'loss_kd': tensor(0.5232)}

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, sections 2 and 5.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        loss_weight: float = 1.0,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'label',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            temperature,
            loss_weight,
            standardize,
            ensemble,
            weighting,
            objective,
            embedding_tap,
            locations,
        )

    def require_distribution(self, student: Probe) -> None:
        """Refuse a sigmoid only where logits are standardised."""
        if self.standardize:
            require_standardizable(student)

    def divergence(self, rows: ScoreRows, targets: Targets, labels: Tensor | None) -> Tensor:
        temperature = float(self.temperature)  # a schedule may change it
        target = rows.probabilities(targets(temperature))
        return soft_target_loss(rows.student, target, temperature, rows.activation, rows.weights)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        # Probabilities, not their logarithms: a sigmoid has no logarithms that add up to 1.
        if self.mixture is not None:
            mixed = self.mixture(student, teachers, labels)
            return {
                self.loss_name: self.loss_weight * mixed.divergence(),
                **mixed.learning,
                **mixed.metrics,
            }
        rows = score_rows(student, teachers, self.locations)
        if self.standardize:
            rows = standardized(rows)
        target = self._mean(rows).detach()
        divergence = soft_target_loss(
            rows.student, target, float(self.temperature), rows.activation, rows.weights
        )
        return {self.loss_name: self.loss_weight * divergence}

    def _mean(self, rows: ScoreRows) -> Tensor:
        softened = rows.teachers / float(self.temperature)
        if self.ensemble == 'arithmetic':
            return rows.probabilities(softened).mean(dim=1)
        return rows.probabilities(softened.mean(dim=1))
