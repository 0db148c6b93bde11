"""Hard targets: the teacher's predicted class as the label."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.errors import ConfigError, fraction
from mmkd_plugin.models.losses.functional import weighted_mean
from mmkd_plugin.models.losses.hard_target import hard_target_rows
from mmkd_plugin.models.methods.log_targets import require_softmax
from mmkd_plugin.models.methods.logit_method import LogitMethod, Targets
from mmkd_plugin.models.methods.teacher_mixture import TeacherMixture
from mmkd_plugin.outputs import ScoreRows
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class HardTarget(LogitMethod):
    r"""Train the student on the class that its teachers predict: pseudo-labels.

    .. math:: L = -w\,\frac{1}{N} \sum_n \mathbf{1}\bigl[\max_k p^T_{nk} \ge c\bigr]
              \log p^S_{n\hat y_n}, \quad \hat y_n = \arg\max_k p^T_{nk}

    as :func:`~mmkd_plugin.models.losses.hard_target_loss`. It needs no label. Several teachers
    become one distribution first, whose most probable class counts. For detectors with a softmax
    this holds at each location; the class may be the background. No gradient passes an argmax, so a
    weighting cannot learn from the loss: ``objective='label'``.

    Args:
        loss_weight: :math:`w`.
        min_confidence: :math:`c`, in [0, 1): images below it add nothing.
        ensemble, weighting, objective, embedding_tap, locations: As in
            :class:`~mmkd_plugin.models.methods.logit_method.LogitMethod`.

    Raises:
        ConfigError: If a number is out of range, the networks have a sigmoid or one class, or a
            weighting would learn from the loss.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores, NetworkOutput
        >>> student = NetworkOutput(ClassScores.of_images(torch.zeros(1, 4)))
        >>> teacher = NetworkOutput(ClassScores.of_images(torch.tensor([[0.0, 9.0, 0.0, 0.0]])))
        >>> HardTarget()(student, [teacher], None)  # log(4)
        {'loss_hard': tensor(1.3863)}

    Reference:
        Touvron et al., Training data-efficient image transformers, ICML 2021, eq. 3, without label
        smoothing; Lee, Pseudo-Label, ICML workshop 2013; Sohn et al., FixMatch, NeurIPS 2020,
        eq. 4, for the confidence.
    """

    loss_name = 'loss_hard'
    teaches_weighting = False

    def __init__(
        self,
        loss_weight: float = 1.0,
        min_confidence: float = 0.0,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'label',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            temperature=1.0,
            loss_weight=loss_weight,
            ensemble=ensemble,
            weighting=weighting,
            objective=objective,
            embedding_tap=embedding_tap,
            locations=locations,
        )
        self.min_confidence = fraction('min_confidence', min_confidence)

    def require_distribution(self, student: Probe) -> None:
        why = 'because HardTarget predicts one class'
        fix = "Use 'SoftTarget' or 'DIST', which take a sigmoid."
        require_softmax('type', student, why, fix, 'HardTarget')

    @classmethod
    def part_settings(cls, mixture: TeacherMixture) -> dict[str, Any]:
        if mixture.standardize:
            problem = 'must be False: a class is predicted from the logits as they are'
            raise ConfigError('standardize', problem, found=True)
        return {}

    def divergence(self, rows: ScoreRows, targets: Targets, labels: Tensor | None) -> Tensor:
        losses = hard_target_rows(rows.student, targets(1.0), float(self.min_confidence))
        return weighted_mean('HardTarget', losses, rows.weights)
