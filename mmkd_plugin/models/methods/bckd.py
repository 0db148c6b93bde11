"""BCKD: binary quality of class scores, and GIoU of boxes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.boxes import common_levels
from mmkd_plugin.errors import ConfigError, one_of, positive_number
from mmkd_plugin.models.losses import binary_quality_loss, giou_loss
from mmkd_plugin.models.losses.functional import at_least_float32
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.divisor import DIVISORS, divisor_of
from mmkd_plugin.outputs import ClassScores, NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class BCKD(Method):
    r"""Transfer sigmoid scores as binary tasks, and boxes by their GIoU.

    .. math:: L = \frac{1}{Z} \sum_a \left( w_s \sum_c |p_{ac} - q_{ac}|^\beta
                  \mathrm{BCE}(q_{ac}, p_{ac}) + w_b \max_c |p_{ac} - q_{ac}|\,
                  (1 - \mathrm{GIoU}_a) \right)

    The sum runs over the locations of all images, without padding. Several teachers have the mean
    of their losses. The authors' code leaves out levels where no location of the batch is positive;
    here they count.

    Args:
        score_weight: :math:`w_s`.
        box_weight: :math:`w_b`. Heads must output distances, distributions, or deltas that
            MMDet's ``DeltaXYWHBBoxCoder`` or YOLOX decodes. Set it to 0 for other heads, such as
            YOLOv3.
        beta: :math:`\beta`, above 0.
        normalize: :math:`Z`. ``'positives'``, as in the authors' code: the locations that the
            student's assigner made positive, at least 1 an image, mean over the ranks. It needs the
            student's own losses. ``'confidence'``: the sum of the teacher's confidences of at least
            0.05, and at least 1. It needs no assigner, and the loss has another scale.

    Raises:
        ConfigError: If a number or word is wrong, in :meth:`build` if the heads do not fit, or in
            the first batch if no assigner ran.

    Reference:
        Yang et al., Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object
        Detection, ICCV 2023 (arXiv 2308.14286); for Z the authors' code.
    """

    score_weight: float
    box_weight: float

    def __init__(
        self,
        score_weight: float = 1.0,
        box_weight: float = 4.0,
        beta: float = 1.0,
        normalize: str = 'positives',
    ) -> None:
        super().__init__(score_weight=score_weight, box_weight=box_weight)
        self.beta = positive_number('beta', beta)
        self.normalize = one_of('normalize', normalize, DIVISORS)
        self._boxes = bool(self.box_weight)

    def requests(self, num_teachers: int) -> Requests:
        return Requests(
            teachers=((),) * num_teachers,
            scores=True,
            boxes=self._boxes,
            assigned=self.normalize == 'positives',
        )

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        scores, boxes = student.output.scores, student.output.boxes
        assert scores is not None
        if not scores.levels or scores.activation != 'sigmoid':
            raise ConfigError(
                'type',
                f'BCKD needs a dense head with sigmoid scores, but the student outputs {scores}',
                'Use SoftTarget.',
                found='BCKD',
            )
        if self._boxes and (boxes is None or not boxes.decodable):
            raise ConfigError(
                'box_weight',
                f'must be 0, as the boxes of the student cannot be decoded: {boxes}',
                found=float(self.box_weight),
            )

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        found = [self._losses(student, teacher) for teacher in teachers]
        names = found[0].keys()
        return {name: torch.stack([one[name] for one in found]).mean() for name in names}

    def _losses(self, student: NetworkOutput, teacher: NetworkOutput) -> dict[str, Tensor]:
        assert student.scores is not None
        assert teacher.scores is not None
        levels = common_levels(student.scores.levels, teacher.scores.levels)
        own, other = student.scores.on_levels(levels), teacher.scores.on_levels(levels)
        with torch.no_grad():
            weights = self._weights(student.scores, own, other)
            student_logits, teacher_logits = at_least_float32(own.logits, other.logits)
            difference = (teacher_logits.sigmoid() - student_logits.sigmoid()).abs()
        logits = own.logits.flatten(0, 1), other.logits.flatten(0, 1)
        scores = binary_quality_loss(*logits, float(self.beta), weights)
        losses = {'loss_scores': self.score_weight * scores}
        if student.boxes is not None and teacher.boxes is not None and self._boxes:
            of_boxes = giou_loss(
                student.boxes.on_levels(levels).corners().flatten(0, 1),
                teacher.boxes.on_levels(levels).corners().flatten(0, 1),
                weights * difference.amax(dim=2).flatten(),
            )
            losses['loss_boxes'] = self.box_weight * of_boxes
        return losses

    def _weights(self, whole: ClassScores, own: ClassScores, other: ClassScores) -> Tensor:
        """Return 1/Z for each location outside the padding, (N * A,).

        Args:
            whole: The student's scores.
            own: The same at the locations that both networks have.
            other: The teacher's scores there.
        """
        dtype = torch.promote_types(own.logits.dtype, torch.float32)
        ones = own.logits.new_ones(own.logits.shape[:2], dtype=dtype)
        valid = ones if own.valid is None else own.valid.to(ones)
        total = divisor_of(self.normalize, whole, own, other)
        return (valid / total).flatten()
