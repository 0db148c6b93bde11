"""LD: the teacher's distributions over the sides of boxes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.boxes import BoxOutputs, ObjectBoxes, common_levels, cut
from mmkd_plugin.errors import ConfigError, fraction, positive_integer, positive_number
from mmkd_plugin.models.losses import localization_loss
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.valuable_region import valuable_region
from mmkd_plugin.outputs import ClassScores, NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class LD(Method):
    r"""Match the distributions over the sides of boxes where there is an object, or nearly one.

    .. math:: L = \frac{\tau^2}{4 B} \sum_a \Bigl(w\,m_a + \frac{v}{4}\,u_a\Bigr) \sum_{side}
              \mathrm{KL}(\mathrm{softmax}(t_a / \tau) \,\|\, \mathrm{softmax}(s_a / \tau))

    over the locations :math:`a`, with B bins a side. :math:`m_a` is the student's largest class
    probability, without gradient, where its assigner found an object, and else 0. This part has
    the values of MMDet's ``LDHead`` for equal weights of the networks: the mean over bins, the sum
    over levels, and no division by the number of positives.

    :math:`u_a` is the IoU of the anchor with an object in the valuable region, and else 0: see
    :func:`~mmkd_plugin.models.methods.valuable_region.valuable_region`. This part has the scale of
    the authors' code, which divides by 16 where the other part is divided by 4. The region depends
    on annotated boxes and on the student's anchors alone. It needs no assigner.

    Several teachers have the mean of their losses. The paper also distils class scores in each
    region, which is not included.

    Args:
        temperature: :math:`\tau`.
        loss_weight: :math:`w`, of the positive locations; MMDet's configs have 0.25.
        vlr_weight: :math:`v`, of the valuable region; the authors' configs have 0.25. 0 makes no
            region, as MMDet has none.
        gamma: :math:`\gamma` of the region, in [0, 1).
        topk: Candidates of a level for the region's threshold: the ``topk`` of the student's
            ``ATSSAssigner``.

    Raises:
        ConfigError: If a number is out of range, or in :meth:`build` if a head outputs no
            distributions, or has no anchors for the region.

    Reference:
        Zheng et al., Localization Distillation for Dense Object Detection, CVPR 2022, sections 3.2
        and 3.3; MMDetection's ``configs/ld``; for the scale of the region the authors' code.
    """

    loss_weight: float
    vlr_weight: float

    def __init__(
        self,
        temperature: float = 10.0,
        loss_weight: float = 0.25,
        vlr_weight: float = 0.0,
        gamma: float = 0.25,
        topk: int = 9,
    ) -> None:
        super().__init__(loss_weight=loss_weight, vlr_weight=vlr_weight)
        self.temperature = positive_number('temperature', temperature)
        self.gamma = fraction('gamma', gamma)  # the region is empty at 1
        self.topk = positive_integer('topk', topk)
        self._positive, self._valuable = bool(self.loss_weight), bool(self.vlr_weight)

    def requests(self, num_teachers: int) -> Requests:
        return Requests(
            teachers=((),) * num_teachers,
            scores=True,
            boxes=True,
            assigned=self._positive,
            objects=self._valuable,
        )

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
        own = student.output.boxes
        if self._valuable and own is not None and not own.anchors:
            raise ConfigError(
                'vlr_weight',
                f'needs a head with anchors, and {student.key} has points',
                'Set it to 0.',
                found=float(self.vlr_weight),
            )

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        assert student.scores is not None
        assert student.boxes is not None
        factors = {}
        if self._positive:
            factors['loss_ld'] = self.loss_weight, _confidences(student.scores)
        if self._valuable:
            assert student.objects is not None
            quality = self._qualities(student.boxes, student.objects)
            factors['loss_ld_vlr'] = self.vlr_weight, quality / 4
        losses = {}
        for name, (weight, factor) in factors.items():
            found = [self._loss(student.boxes, teacher.boxes, factor) for teacher in teachers]
            losses[name] = weight * torch.stack(found).mean()
        return losses

    def _loss(self, own: BoxOutputs, other: BoxOutputs | None, factors: Tensor) -> Tensor:
        """Return the loss at the locations whose factor, (N, A), is not 0."""
        assert other is not None
        levels = common_levels(own.levels, other.levels)
        if levels != own.levels:
            factors = cut(factors, own.levels, levels)
        rows = factors.nonzero(as_tuple=True)
        student = own.on_levels(levels).values[rows]
        teacher = other.on_levels(levels).values[rows]
        sides, bins = student.shape[1:]
        weights = factors[rows][:, None].expand(-1, sides).flatten() / (sides * bins)
        return localization_loss(
            student.flatten(0, 1), teacher.flatten(0, 1), float(self.temperature), weights
        )

    @torch.no_grad()
    def _qualities(self, boxes: BoxOutputs, objects: ObjectBoxes) -> Tensor:
        """Return the IoU of each location of the valuable region with an object, (N, A)."""
        anchors = boxes.anchor_boxes()
        grids = [*zip(boxes.anchors, boxes.levels, strict=True)]
        areas = objects.areas or (objects.size,) * len(objects.boxes)
        qualities = anchors.new_zeros(len(areas), len(anchors))
        for quality, area, corners in zip(qualities, areas, objects.boxes, strict=True):
            masks = [grid.begin_inside(rows, columns, area) for grid, (rows, columns, _) in grids]
            kept = torch.cat(masks).nonzero().squeeze(1).to(anchors.device)
            counts = [int(mask.sum()) for mask in masks]
            quality[kept] = valuable_region(
                anchors[kept], counts, corners, float(self.gamma), self.topk
            )
        return qualities


@torch.no_grad()
def _confidences(scores: ClassScores) -> Tensor:
    """Return the largest probability at each positive location, and else 0, (N, A)."""
    if scores.assigned is None:
        raise ConfigError(
            'type',
            "needs the student's own losses, whose assigner finds the objects of locations",
            'Write task_weight > 0. The head must assign by get_targets, as GFL does.',
            found='LD',
        )
    return torch.where(scores.assigned >= 0, scores.confidence(), 0.0)
