"""Logit mimicry of Ba & Caruana."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.losses import logit_mimic_loss
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.outputs import NetworkOutput, score_rows
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class LogitMimic(Method):
    r"""Regress the teachers' mean logits.

    .. math:: L = \frac{w}{2N} \sum_n \| g_n - z_n \|^2

    With ``task_weight=0`` no label is used, so the transfer set needs none.

    Args:
        loss_weight: :math:`w`, of :func:`~mmkd_plugin.models.losses.logit_mimic_loss`: half the
            squared error, summed over classes, mean over images.
        standardize: Standardise both networks' logits by the teachers' mean and standard deviation
            per class over the transfer set. The hook ``MeasureLogits`` measures them before
            training; they are saved with the run. Not for detectors.
        locations: Weights of the locations of detectors; see
            :class:`~mmkd_plugin.models.methods.location_weights.LocationWeights`.

    Raises:
        ConfigError: If the weight is negative; in training, if the statistics were not measured.

    Example:
        >>> from mmkd_plugin.outputs import ClassScores
        >>> student = NetworkOutput(ClassScores.of_images(torch.tensor([[3.0, 6.0]])))
        >>> teacher = NetworkOutput(ClassScores.of_images(torch.tensor([[2.0, 4.0]])))
        >>> LogitMimic()(student, [teacher], None)  # (1 + 4) / 2
        {'loss_mimic': tensor(2.5000)}

    Reference:
        Ba, Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, eq. 1 and section 2.2.
    """

    loss_weight: float
    logit_mean: Tensor
    logit_std: Tensor

    def __init__(
        self,
        loss_weight: float = 1.0,
        standardize: bool = False,
        locations: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        self.standardize = bool(standardize)
        self.locations = LocationWeights.from_config(locations)
        self._checked = False  # spares a device-to-host copy every step

    def requests(self, num_teachers: int) -> Requests:
        return Requests(teachers=((),) * num_teachers, scores=True)

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        scores = student.output.scores
        assert scores is not None
        if self.standardize:
            if not scores.per_image:
                raise ConfigError(
                    'standardize',
                    'must be False for detectors, most of whose locations are background',
                    found=True,
                )
            self.register_buffer('logit_mean', torch.full((scores.num_classes,), torch.nan))
            self.register_buffer('logit_std', torch.full((scores.num_classes,), torch.nan))

    @property
    def measured(self) -> bool:
        """Whether the statistics are measured, or not needed."""
        return not self.standardize or bool(self.logit_mean.isfinite().all())

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the teachers' mean and standard deviation per class, (C,) each."""
        self.logit_mean.copy_(mean)
        self.logit_std.copy_(std.clamp_min(1e-6))

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        rows = score_rows(student, teachers, self.locations)
        own, target = rows.student, rows.teachers.mean(dim=1)
        if self.standardize:
            self._require_statistics()
            own, target = ((logits - self.logit_mean) / self.logit_std for logits in (own, target))
        return {'loss_mimic': self.loss_weight * logit_mimic_loss(own, target, rows.weights)}

    def _require_statistics(self) -> None:
        if not self._checked and not self.measured:
            raise ConfigError(
                'standardize',
                'needs measured logits',
                "Add custom_hooks=[dict(type='mmkd_plugin.MeasureLogits')].",
                found=True,
            )
        self._checked = True
