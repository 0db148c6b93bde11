"""LD: the teacher's distributions over the sides of boxes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.boxes import common_levels
from mmkd_plugin.errors import ConfigError, positive_number
from mmkd_plugin.models.losses import localization_loss
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class LD(Method):
    r"""Match the distributions over the sides of boxes where the student's head has an object.

    .. math:: L = \frac{w \tau^2}{4 B} \sum_a m_a \sum_{side}
              \mathrm{KL}(\mathrm{softmax}(t_a / \tau) \,\|\, \mathrm{softmax}(s_a / \tau))

    over the locations :math:`a` that the student's assigner made positive, with B bins a side and
    the student's largest class probability :math:`m_a`, without gradient. It has the values of
    MMDet's ``LDHead`` for equal weights of the networks: the mean over bins, the sum over levels,
    and no division by the number of positives. Several teachers have the mean of their losses.

    The paper's valuable region beside the positives is not included.

    Args:
        temperature: :math:`\tau`.
        loss_weight: :math:`w`; MMDet's configs have 0.25.

    Raises:
        ConfigError: If a number is out of range, or in :meth:`build` if a head outputs no
            distributions.

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022, section 3.2;
        MMDetection's ``configs/ld``.
    """

    loss_weight: float

    def __init__(self, temperature: float = 10.0, loss_weight: float = 0.25) -> None:
        super().__init__(loss_weight=loss_weight)
        self.temperature = positive_number('temperature', temperature)

    def requests(self, num_teachers: int) -> Requests:
        return Requests(teachers=((),) * num_teachers, scores=True, boxes=True, assigned=True)

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        for probe in (student, *teachers):
            boxes = probe.output.boxes
            if boxes is None or boxes.kind != 'distribution':
                raise ConfigError(
                    'type',
                    f'needs heads that output distributions over the sides of boxes, and '
                    f'{probe.key} outputs: {boxes}',
                    'Use GFL and its kin, or another method, such as BCKD.',
                    found='LD',
                )

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses = torch.stack([self._loss(student, teacher) for teacher in teachers])
        return {'loss_ld': self.loss_weight * losses.mean()}

    def _loss(self, student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
        assert student.scores is not None
        assert student.boxes is not None
        assert teacher.boxes is not None
        levels = common_levels(student.boxes.levels, teacher.boxes.levels)
        scores, boxes = student.scores.on_levels(levels), student.boxes.on_levels(levels)
        if boxes.assigned is None:
            raise ConfigError(
                'type',
                "needs the student's own losses, whose assigner finds the objects of locations",
                'Write task_weight > 0. The head must assign by get_targets, as GFL does.',
                found='LD',
            )
        positive = boxes.assigned >= 0
        own = boxes.values[positive]
        target = teacher.boxes.on_levels(levels).values[positive]
        if not len(own):
            return boxes.values.sum() * 0.0
        sides, bins = own.shape[1:]
        confidence = scores.logits.detach()[positive].float().sigmoid().amax(dim=1)
        weights = confidence[:, None].expand(-1, sides).flatten() / (sides * bins)
        return localization_loss(
            own.flatten(0, 1), target.flatten(0, 1), float(self.temperature), weights
        )
