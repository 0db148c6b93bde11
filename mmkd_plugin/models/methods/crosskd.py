"""CrossKD: the student's head features continue through the teacher's head."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.head_continuation import HeadContinuation
from mmkd_plugin.adapters.head_towers import TOWERS, HeadTowers, find_towers
from mmkd_plugin.adapters.levels import LevelFinder
from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.boxes import BoxOutputs, common_levels
from mmkd_plugin.errors import ConfigError, one_of, positive_integer, positive_number
from mmkd_plugin.models.connectors import HintRegressor
from mmkd_plugin.models.losses import binary_quality_loss, giou_loss, localization_loss
from mmkd_plugin.models.losses.functional import at_least_float32
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.divisor import DIVISORS, divisor_of
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS

#: Added to variances; the authors' code adds 1e-6 to the student's standard deviation.
_EPS = 1e-12


@MODELS.register_module()
class CrossKD(Method):
    r"""Compare a teacher's predictions with those that its head makes of the student's features.

    .. math:: L = \frac{w_s}{Z} \sum_a \sum_c |p_{ac} - q_{ac}|^\beta \,
                  \mathrm{BCE}(q_{ac}, p_{ac}) + L_b

    The student's maps behind a convolution of its two towers pass through the remaining layers of
    the frozen teacher's head, which outputs the probabilities :math:`q` and boxes. :math:`p` are
    the teacher's own. For heads with distributions over the sides of boxes, as GFL,

    .. math:: L_b = \frac{w_b \tau^2}{4 \sum_a m_a} \sum_a m_a \sum_{side}
              \mathrm{KL}(\mathrm{softmax}(t_a / \tau) \,\|\, \mathrm{softmax}(s_a / \tau)),

    and for other heads :math:`L_b = \frac{w_b}{Z} \sum_a m_a (1 - \mathrm{GIoU}_a)` of the decoded
    boxes. :math:`m_a` is the teacher's largest class probability. The sums run over the locations
    of all images, without padding. Several teachers have the mean of their losses.

    A 1x1 convolution for each tower is learned if the channels of the student's maps differ from
    the teacher's. All levels share it.

    The authors' code also compares the centerness of ATSS, and a later version adds the GIoU for
    GFL. These are not included. It leaves out anchors that the assigner ignores, as RetinaNet's
    with an IoU between 0.4 and 0.5; here all locations count. For FCOS it has the IoU in place of
    the GIoU, and the sum of the centerness targets in place of Z.

    Args:
        score_weight: :math:`w_s`.
        box_weight: :math:`w_b`. The authors' configs have 1.0 for RetinaNet and ATSS, and 4.0 or
            3.0 for GFL; for FCOS 0.75, with 0.4 for the scores.
        beta: :math:`\beta`, above 0.
        temperature: :math:`\tau`, for distributions.
        layer: Number of the student's convolution whose output continues, from 1. Default: the
            last but one, or the only one. The authors take the third of four, and the second for
            FCOS.
        remaining: Number of convolutions of each of the teacher's towers that still run, before
            the predictions. Default: one, or none where the teacher has one.
        align: Whether each channel of the student's map, before its activation, gets mean and
            variance of the teacher's at the same place, level by level, as in the authors' code.
            Otherwise the map behind the activation continues as it is.
        normalize: Z. ``'positives'``, as in the authors' code: the locations that the student's
            assigner made positive, at least 1 an image, mean over the ranks. It needs the
            student's own losses. ``'confidence'``: the sum of the :math:`m_a` of at least 0.05, and
            at least 1. It needs no assigner, and the loss has another scale.

    Raises:
        ConfigError: If a number is out of range, if a network is no dense detector with two such
            towers, if a teacher is replayed or standardized, or in :meth:`build` if a teacher
            still learns.

    Reference:
        Wang et al., CrossKD: Cross-Head Knowledge Distillation for Object Detection, CVPR 2024
        (arXiv 2306.11369; code: jbwang1997/CrossKD).
    """

    score_weight: float
    box_weight: float

    def __init__(
        self,
        score_weight: float = 1.0,
        box_weight: float = 1.0,
        beta: float = 1.0,
        temperature: float = 1.0,
        layer: int | None = None,
        remaining: int | None = None,
        align: bool = True,
        normalize: str = 'positives',
    ) -> None:
        super().__init__(score_weight=score_weight, box_weight=box_weight)
        self.beta = positive_number('beta', beta)
        self.temperature = positive_number('temperature', temperature)
        self.layer = None if layer is None else positive_integer('layer', layer)
        if remaining is not None and (type(remaining) is not int or remaining < 0):
            raise ConfigError('remaining', 'must be an integer >= 0, or None', found=remaining)
        if not isinstance(align, bool):
            raise ConfigError('align', 'must be True or False', found=align)
        self.remaining, self.align = remaining, align
        self.normalize = one_of('normalize', normalize, DIVISORS)
        weights = (self.score_weight, self.box_weight)
        self._reads = tuple(name for name, one in zip(TOWERS, weights, strict=True) if one)
        self.connectors = nn.ModuleList()
        # No modules: teachers are outside the module tree.
        self._heads: list[HeadContinuation] = []
        self._student_taps: dict[str, tuple[str, ...]] = {}
        self._teacher_taps: list[dict[str, tuple[str, ...]]] = []
        self._left: list[int] = []

    def choose_taps(self, student: LevelFinder, teachers: Sequence[LevelFinder]) -> list[str]:
        for finder in teachers:
            self._require_running(finder)
        own = find_towers(student.network)
        others = [find_towers(finder.network) for finder in teachers]
        layer = max(1, own.convs - 1) if self.layer is None else self.layer
        if layer > own.convs:
            raise ConfigError(
                'layer',
                f'must be at most {own.convs}, the number of convolutions of the towers of '
                f'{own.key}',
                found=layer,
            )
        self._student_taps = self._taps(own, layer)
        self._left = [self._remaining(one) for one in others]
        self._teacher_taps = [
            self._taps(one, one.convs - left) for one, left in zip(others, self._left, strict=True)
        ]
        return [
            f'convolution {layer} of {own.convs} of the towers of {own.key} continues in the last '
            f'{left} of {one.convs} of {one.key}'
            for one, left in zip(others, self._left, strict=True)
        ]

    def requests(self, num_teachers: int) -> Requests:
        student = tuple(tap for taps in self._student_taps.values() for tap in taps)
        teachers: tuple[tuple[str, ...], ...] = ((),) * num_teachers
        if self.align and self._teacher_taps:
            teachers = tuple(
                tuple(tap for taps in of_one.values() for tap in taps)
                for of_one in self._teacher_taps
            )
        return Requests(
            student=student,
            teachers=teachers,
            scores=True,
            boxes=TOWERS[1] in self._reads,
            assigned=self.normalize == 'positives',
        )

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        scores, boxes = student.output.scores, student.output.boxes
        assert scores is not None
        if scores.activation != 'sigmoid':
            raise ConfigError(
                'type',
                f'needs a dense head with sigmoid scores, but {student.key} outputs {scores}',
                'Use SoftTarget.',
                found='CrossKD',
            )
        if boxes is not None and not boxes.decodable:
            raise ConfigError(
                'box_weight',
                f'must be 0, as the boxes of {student.key} cannot be decoded: {boxes}',
                found=float(self.box_weight),
            )
        for probe, left in zip(teachers, self._left, strict=True):
            head = probe.head_continuation(
                left,
                before_activation=self.align,
                reads=self._reads,
                boxes=TOWERS[1] in self._reads,
            )
            self._heads.append(head)
            connectors = nn.ModuleDict()
            for name, target in head.channels.items():
                source = student.feature(self._student_taps[name][0]).shape[1]
                if source != target:
                    connectors[name] = HintRegressor(source, target)
            self.connectors.append(connectors)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        found = [self._losses(n, student, teacher) for n, teacher in enumerate(teachers)]
        names = found[0].keys()
        return {name: torch.stack([one[name] for one in found]).mean() for name in names}

    def _losses(
        self, number: int, student: NetworkOutput, teacher: NetworkOutput
    ) -> dict[str, Tensor]:
        assert student.scores is not None
        assert teacher.scores is not None
        logits, values = self._heads[number](self._features(number, student, teacher))
        levels = common_levels(student.scores.levels, teacher.scores.levels)
        cross = replace(student.scores, logits=logits).on_levels(levels)
        target = teacher.scores.on_levels(levels)
        with torch.no_grad():
            confidence = target.confidence()
            if cross.valid is not None:
                confidence = confidence * cross.valid
            total = divisor_of(self.normalize, student.scores, cross, target)
        losses = {}
        if TOWERS[0] in self._reads:
            counted = torch.ones_like(confidence) if cross.valid is None else cross.valid
            scores = binary_quality_loss(
                cross.logits.flatten(0, 1),
                target.logits.flatten(0, 1),
                float(self.beta),
                (counted / total).flatten(),
            )
            losses['loss_scores'] = self.score_weight * scores
        if values is not None and student.boxes is not None and teacher.boxes is not None:
            boxes = replace(student.boxes, values=values).on_levels(levels)
            pair = boxes, teacher.boxes.on_levels(levels)
            losses['loss_boxes'] = self.box_weight * self._box_loss(
                *pair, confidence.flatten(), total
            )
        return losses

    def _box_loss(
        self, cross: BoxOutputs, target: BoxOutputs, confidence: Tensor, total: Tensor
    ) -> Tensor:
        if cross.kind == 'distribution':
            weights = confidence / confidence.sum().clamp_min(torch.finfo(confidence.dtype).tiny)
            return localization_loss(
                cross.values.flatten(0, 2),
                target.values.flatten(0, 2),
                float(self.temperature),
                (weights / 4)[:, None].expand(-1, 4).flatten(),
            )
        own, other = (one.corners().flatten(0, 1) for one in (cross, target))
        return giou_loss(own, other, confidence / total)

    def _features(
        self, number: int, student: NetworkOutput, teacher: NetworkOutput
    ) -> dict[str, Sequence[Tensor]]:
        """Return the student's maps in the form of the teacher's, by tower and level."""
        connectors = self.connectors[number]
        assert isinstance(connectors, nn.ModuleDict)
        features: dict[str, Sequence[Tensor]] = {}
        for name, taps in self._student_taps.items():
            maps = [student.feature(tap) for tap in taps]
            if name in connectors:
                maps = [connectors[name](one) for one in maps]
            if self.align:
                others = [teacher.feature(tap) for tap in self._teacher_taps[number][name]]
                maps = [_aligned(*pair) for pair in zip(maps, others, strict=True)]
            features[name] = maps
        return features

    def _taps(self, towers: HeadTowers, conv: int) -> dict[str, tuple[str, ...]]:
        return {name: towers.taps(name, conv, self.align) for name in self._reads}

    def _remaining(self, towers: HeadTowers) -> int:
        left = min(1, towers.convs - 1) if self.remaining is None else self.remaining
        if left >= towers.convs:
            raise ConfigError(
                'remaining',
                f'must be below {towers.convs}, the number of convolutions of the towers of '
                f'{towers.key}',
                found=left,
            )
        return left

    def _require_running(self, finder: LevelFinder) -> None:
        if getattr(finder.network, 'replayed', False):
            raise ConfigError(
                'type',
                f'runs the head of {finder.key} on the features of the student, and a store has '
                'no head',
                'Leave replay out of the teachers, or use SoftTarget, LogitMimic or AMTMLKD.',
                found='CrossKD',
            )
        if self.align and getattr(finder.network, 'standardize', None) is not None:
            raise ConfigError(
                'align',
                f'reads the maps of {finder.key} at their own scale, and it has standardize',
                'Leave standardize out of this teacher, or write align=False.',
                found=True,
            )


def _aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """Give each channel of a map (N, C, H, W) mean and variance of the teacher's."""
    own, other = at_least_float32(student, teacher)
    axes = (0, 2, 3)
    variance, mean = torch.var_mean(own, axes, correction=0, keepdim=True)
    wanted, centre = torch.var_mean(other, axes, correction=0, keepdim=True)
    # Two roots: that of a quotient has no gradient where the teacher's channel is constant.
    return (own - mean) * (wanted.sqrt() / (variance + _EPS).sqrt()) + centre
