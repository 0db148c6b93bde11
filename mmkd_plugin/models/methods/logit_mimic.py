"""Ba & Caruana's mimicry of logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses import logit_mimic_loss
from mmkd_plugin.models.methods.base import Method
from mmkd_plugin.models.methods.locations import Locations
from mmkd_plugin.models.methods.scores import compared_scores, logits_of
from mmkd_plugin.outputs import ClassScores, Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class LogitMimic(Method):
    """Regress the teachers' mean logits; with ``task_weight=0`` no label is touched, so the transfer set needs none.

    Args:
        loss_weight: Multiplies :func:`~mmkd_plugin.models.losses.logit_mimic_loss`: half the squared error, summed over classes, mean over images.
        standardize: Measure both networks' logits in the teachers' mean and standard deviation per class over the transfer set, which
            the hook ``MeasureLogits`` takes before training. They are saved with the run. Not for detectors.
        locations: Which places of detectors teach, and how much: see :class:`~mmkd_plugin.models.methods.locations.Locations`.

    Raises:
        ValueError: If the weight is negative; in training, if the statistics were never measured.

    Source: Ba, Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, eq. 1 and section 2.2.
    """

    logit_mean: Tensor
    logit_std: Tensor

    def __init__(
        self,
        loss_weight: float = 1.0,
        standardize: bool = False,
        locations: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.standardize = bool(standardize)
        self.locations = Locations.of(locations)
        self._checked = False  # spares a device-to-host copy every step

    @property
    def active(self) -> bool:
        return self.loss_weight > 0

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        if self.standardize:
            if isinstance(student.logits, ClassScores):
                raise ValueError(
                    'standardize: expected False for detectors, most of whose places show nothing, got True'
                )
            classes = logits_of(student).shape[-1]
            self.register_buffer('logit_mean', torch.full((classes,), torch.nan))
            self.register_buffer('logit_std', torch.full((classes,), torch.nan))

    @property
    def measured(self) -> bool:
        """Whether the statistics are there, or not needed."""
        return not self.standardize or bool(self.logit_mean.isfinite().all())

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Take the teachers' per-class mean and standard deviation, (C,) each, over the transfer set."""
        self.logit_mean.copy_(mean)
        self.logit_std.copy_(std.clamp_min(1e-6))

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        scores = compared_scores(student, teachers, self.locations)
        own, target = scores.student, scores.teachers.mean(dim=1)
        if self.standardize:
            self._require_statistics()
            own, target = ((logits - self.logit_mean) / self.logit_std for logits in (own, target))
        return {'loss_mimic': self.loss_weight * logit_mimic_loss(own, target, scores.weights)}

    def _require_statistics(self) -> None:
        if not self._checked and not self.measured:
            raise ValueError(
                "standardize: expected measured logits: add custom_hooks=[dict(type='mmkd_plugin.MeasureLogits')]"
            )
        self._checked = True
