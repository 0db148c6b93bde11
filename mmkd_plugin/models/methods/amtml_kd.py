"""AMTML-KD: adaptive multi-teacher multi-level knowledge distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number, one_of, positive_integer, positive_number
from mmkd_plugin.models.connectors import HintRegressor
from mmkd_plugin.models.losses import angle_loss, hint_loss, presence_loss
from mmkd_plugin.models.methods.base import Method
from mmkd_plugin.models.methods.channels import feature, stated_channels
from mmkd_plugin.models.methods.gather import gather_rows
from mmkd_plugin.models.methods.group_mapping import GroupMapping
from mmkd_plugin.models.methods.locations import Locations
from mmkd_plugin.models.methods.scores import ComparedScores, classes_of, compared_scores
from mmkd_plugin.models.weightings import WeightRecord, build_weighting
from mmkd_plugin.outputs import ClassScores, Knowledge
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class AMTMLKD(Method):
    r"""Adaptive teachers: a soft target mixed for each image, an angle loss between images, hints from every teacher.

    .. math:: L = w_{kd}\,\tau^2\,\mathrm{KL}(\hat y \| p_S) + w_{angle} L_{angle}(\hat y, p_S)
              + w_{hint} \sum_t \lVert u_t - F_t(v_{f(t)})\rVert^2

    with :math:`\hat y_i = \sum_t w_{t,i}\,\mathrm{softmax}(z_t/\tau)` and :math:`p_S = \mathrm{softmax}(z_S/\tau)`; the
    label's cross-entropy is the student's own loss. The weights' objective is either the ``'paper'``'s, label-free: the
    KL term itself reaches the weighting, which pulls the mixture toward what the student already believes; or
    ``'label'``: the cross-entropy of the mixture with the label teaches the weighting, and the student sees the
    mixture detached. Under both, as in the authors' code, gradient also reaches the student through the representation
    that the weights are computed from.

    In detection an image still has one weight for each teacher; targets are mixed, and compared, at each place that teaches, and the
    angles are those between the surest places of the batch. No place has a label of its own without an assigner: under ``'label'`` the
    weighting learns which classes are in the image, by :func:`~mmkd_plugin.models.losses.presence_loss` of the unsoftened mixture.

    Args:
        temperature: :math:`\tau`.
        kd_weight: Of the KL term.
        angle_weight: Of the angle loss.
        hint_weight: Of the hints; the sum over teachers of the mean squared error over elements.
        weighting: The rule, by config: ``LatentTeacherWeighting``, ``UniformTeacherWeighting``,
            ``RandomTeacherWeighting``, ``ConfidenceTeacherWeighting``, ``EntropyTeacherWeighting``.
        objective: ``'paper'`` or ``'label'``; matters to a rule that learns.
        embedding_tap: The student's last convolutional map, (N, d, H, W), max-pooled to (N, d).
        student_groups: Taps of the student's layer groups, low to high; needed for hints.
        teacher_taps: The last feature map of every teacher: one tap for all, or one each; needed for hints.
        mapping: Which group each teacher supervises: ``'best_high'`` (the better the teacher, the higher the group),
            ``'best_low'``, ``'random'`` (by ``seed``), or the index of the group for each teacher. The first two need the
            hook ``EvaluateTeachers``.
        seed: Of ``mapping='random'``.
        gather_angles: Take the angle loss's triplets from the batches of all ranks, not from each rank's own; not for detectors.
        angle_locations: Of detectors: how many places of the batch, those where the teachers are surest of an object, the angle loss
            compares.
        locations: Of detectors: which places teach, and how much; see :class:`~mmkd_plugin.models.methods.locations.Locations`.
        teacher_channels: Channels of the teachers' maps, to be checked against what the probe sees.

    Raises:
        ValueError: If a number is out of range, taps for hints are missing, or there are fewer groups than teachers.

    Source: Liu, Zhang, Wang, Adaptive Multi-Teacher Multi-level Knowledge Distillation, Neurocomputing 415, 2020, eq. 5-7
    for the weights. Where the authors' code (FLHonker/AMTML-KD-code) departs from the paper (average-pooled embedding, KL
    over N*C, two phases) the paper is followed; the hook ``FreezeTeacherWeights`` gives the two phases.
    """

    def __init__(
        self,
        temperature: float = 5.0,
        kd_weight: float = 1.0,
        angle_weight: float = 1.0,
        hint_weight: float = 1.0,
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'paper',
        embedding_tap: str = 'backbone[-1]',
        student_groups: str | Sequence[str] = (),
        teacher_taps: str | Sequence[str] = (),
        mapping: str | Sequence[int] = 'best_high',
        seed: int = 0,
        gather_angles: bool = False,
        angle_locations: int = 64,
        locations: Mapping[str, Any] | None = None,
        teacher_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.temperature = positive_number('temperature', temperature)
        self.kd_weight = non_negative_number('kd_weight', kd_weight)
        self.angle_weight = non_negative_number('angle_weight', angle_weight)
        self.hint_weight = non_negative_number('hint_weight', hint_weight)
        self.objective = one_of('objective', objective, ('paper', 'label'))
        self.gather_angles = bool(gather_angles)
        self.angle_locations = positive_integer('angle_locations', angle_locations)
        self.locations = Locations.of(locations)
        self.teacher_channels = teacher_channels
        self.embedding_tap = embedding_tap
        self.needs_scores = self.kd_weight > 0 or self.angle_weight > 0
        self._weighting_config = (
            {'type': 'LatentTeacherWeighting'} if weighting is None else weighting
        )
        self._teacher_taps = teacher_taps
        self.student_groups = (
            (student_groups,) if isinstance(student_groups, str) else tuple(student_groups)
        )
        taps = [embedding_tap] if self.needs_scores else []
        self.group_mapping = GroupMapping(mapping, len(self.student_groups), seed)
        if self.hint_weight > 0:
            if not self.student_groups or not teacher_taps:
                raise ValueError(
                    'student_groups: expected taps of the student, low to high, and teacher_taps, which hints need (or '
                    f'hint_weight=0), got student_groups={student_groups!r}, teacher_taps={teacher_taps!r}'
                )
            taps.extend(self.student_groups)
        self.student_taps = tuple(dict.fromkeys(taps))
        self.regressors = nn.ModuleList()

    @property
    def active(self) -> bool:
        return self.kd_weight > 0 or self.angle_weight > 0 or self.hint_weight > 0

    def taps_of_teacher(self, index: int, count: int) -> tuple[str, ...]:
        if not self.hint_weight:
            return ()
        taps = (
            (self._teacher_taps,) * count
            if isinstance(self._teacher_taps, str)
            else tuple(self._teacher_taps)
        )
        if len(taps) != count:
            raise ValueError(
                f'teacher_taps: expected one tap, or one for each of {count} teachers, got {len(taps)}: {taps}'
            )
        return (taps[index],)

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        number = len(teachers)
        if self.needs_scores:
            embed_dims = stated_channels(
                'embedding_tap', None, feature(student, self.embedding_tap)
            )
            self.weighting = build_weighting(self._weighting_config, number, embed_dims)
            self.needs_labels = self.weighting.needs_labels or (
                self.weighting.learns and self.objective == 'label'
            )
            self.weight_record = WeightRecord(number, classes_of(student))
            if isinstance(student.logits, ClassScores):
                self._require_places()
        if self.hint_weight > 0:
            channels = [
                stated_channels('student_groups', None, feature(student, tap))
                for tap in self.student_groups
            ]
            self.group_mapping.bind(number)
            if self.teacher_channels is not None and len(self.teacher_channels) != number:
                raise ValueError(
                    f'teacher_channels: expected a number for each of {number} teachers, got {self.teacher_channels}'
                )
            for index, teacher in enumerate(teachers):
                target = feature(teacher, *self.taps_of_teacher(index, number))
                stated = None if self.teacher_channels is None else self.teacher_channels[index]
                possible = [channels[group] for group in self.group_mapping.possible_groups(index)]
                self.regressors.append(
                    HintRegressor(
                        possible, stated_channels(f'teacher_channels[{index}]', stated, target)
                    )
                )

    def set_teacher_order(self, order: Sequence[int]) -> None:
        if self.hint_weight > 0:
            self.group_mapping.set_order(order)

    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        if self.needs_scores:
            losses.update(self._score_losses(student, teachers, labels))
        if self.hint_weight > 0:
            losses['loss_hint'] = self.hint_weight * self._hints(student, teachers)
        return losses

    def _score_losses(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        embedding = feature(student, self.embedding_tap)
        if embedding.ndim == 4:
            embedding = embedding.amax(dim=(2, 3))
        scores = compared_scores(student, teachers, self.locations)
        weights = self.weighting(
            embedding, scores.teachers if scores.images is None else None, labels
        )
        mixture = scores.mixture(weights, self.temperature)
        losses: dict[str, Tensor] = {}
        if self.kd_weight > 0:
            # KL reaches the weights in the paper's objective alone.
            target = mixture if self.objective == 'paper' else mixture.detach()
            losses['loss_kd'] = self.kd_weight * scores.divergence(target, self.temperature)
        if self.weighting.learns and (self.objective == 'label' or not self.kd_weight):
            losses['loss_weighting'] = self._weighting_loss(scores, weights, mixture, labels)
        if self.angle_weight > 0:
            pair = scores.probabilities(scores.student / self.temperature), mixture.detach()
            if scores.confidence is not None:
                surest = scores.confidence.topk(
                    min(self.angle_locations, len(scores.confidence))
                ).indices
                pair = pair[0][surest], pair[1][surest]
            if self.gather_angles:
                pair = gather_rows(pair[0]), gather_rows(pair[1])
            losses['loss_angle'] = self.angle_weight * angle_loss(*pair)
        losses['weight_entropy'] = self.weight_record(weights, labels)
        return losses

    def _weighting_loss(
        self, scores: ComparedScores, weights: Tensor, mixture: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Cross-entropy of the mixture with the label, batch mean."""
        if self.objective == 'paper':
            # Without the KL term nothing teaches the weights; they stay in the graph for DDP.
            return mixture.sum() * 0.0
        if labels is None:
            raise ValueError("objective: expected labels, which 'label' needs, got a batch without")
        if scores.images is not None:
            return presence_loss(
                scores.mixture(weights)[:, : labels.shape[1]], scores.images, labels
            )
        log_mixture = mixture.clamp_min(torch.finfo(mixture.dtype).tiny).log()
        return (
            F.nll_loss(log_mixture, labels)
            if labels.ndim == 1
            else -(labels * log_mixture).sum(dim=1).mean()
        )

    def _require_places(self) -> None:
        if self.weighting.needs_logits:
            raise ValueError(
                'weighting: expected a rule that needs no class scores of whole images, which detectors do not give '
                f"('LatentTeacherWeighting', 'UniformTeacherWeighting', …), got {type(self.weighting).__name__}"
            )
        if self.gather_angles:
            raise ValueError(
                'gather_angles: expected False for detectors, whose surest places are each rank’s own, got True'
            )

    def _hints(self, student: Knowledge, teachers: Sequence[Knowledge]) -> Tensor:
        groups = self.group_mapping.groups()
        total = torch.zeros((), device=next(iter(student.features.values())).device)
        for index, (teacher, regressor) in enumerate(zip(teachers, self.regressors, strict=True)):
            target = feature(teacher, *self.taps_of_teacher(index, len(teachers)))
            source = feature(student, self.student_groups[groups[index]])
            total = total + hint_loss(regressor(source, target.shape[2:]), target)
        return total
