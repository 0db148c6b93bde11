"""AMTML-KD: adaptive multi-teacher multi-level knowledge distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.adapters.levels import LevelFinder
from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import config_key, one_of, positive_integer, positive_number
from mmkd_plugin.models.methods.angle_transfer import mixture_angle_loss, require_gatherable
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.group_hints import GroupHints
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.models.methods.mixture_loss import LABEL_FIX, MixtureLoss, mixture_part
from mmkd_plugin.models.methods.teacher_mixture import Mixture, TeacherMixture
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class AMTMLKD(Method):
    r"""Mix adaptive teachers for each image, match angles between images, hint at layer groups.

    .. math:: L = w_{kd}\,\tau^2\,\mathrm{KL}(\hat y \| p_S) + w_{angle} L_{angle}(\hat y, p_S)
              + w_{hint} \sum_t \lVert u_t - F_t(v_{f(t)})\rVert^2

    with :math:`\hat y_i = \sum_t w_{t,i}\,\mathrm{softmax}(z_t/\tau)` and
    :math:`p_S = \mathrm{softmax}(z_S/\tau)`. The cross-entropy with the label is the student's own
    loss. The three parts also work alone: ``SoftTarget(weighting=…)``, ``AngleTransfer`` and
    ``GroupHints``; here they share one weighting.

    Args:
        temperature: :math:`\tau`.
        kd_weight: Weight of the KL term.
        angle_weight: Weight of the angle loss.
        hint_weight: Weight of the hints: a sum over teachers of mean squared errors.
        weighting: The rule that weighs the teachers: ``LatentTeacherWeighting``,
            ``UniformTeacherWeighting``, ``RandomTeacherWeighting``,
            ``ConfidenceTeacherWeighting`` or ``EntropyTeacherWeighting``.
        objective: How a rule learns: ``'label'``, or the paper's, ``'paper'``; see
            :class:`~mmkd_plugin.models.methods.teacher_mixture.TeacherMixture`.
        embedding_tap: The student's embedding: a map (N, d, H, W), max-pooled, or (N, d). None: the
            last output of the backbone, or else the input of the head.
        student_groups: Taps of the student's layer groups, low to high, or ``'stages'``; hints need
            them.
        teacher_taps: The last feature map of every teacher: one tap for all, or one each; hints
            need it.
        mapping: The group of each teacher; see
            :class:`~mmkd_plugin.models.methods.group_hints.GroupHints`.
        seed: Seed of ``mapping='random'``.
        gather_angles: Take the triplets of the angle loss from the batches of all ranks, not from
            each rank's own; not for detectors.
        angle_locations: For detectors: the number of locations of the batch, those where the
            teachers are most confident, that the angle loss compares.
        locations: Weights of the locations of detectors; see
            :class:`~mmkd_plugin.models.methods.location_weights.LocationWeights`.
        teacher_channels: Channels of the teachers' maps; checked if stated.
        standardize: Standardise the logits of each network over the classes before they are mixed
            and compared; see :func:`~mmkd_plugin.models.losses.standardize_logits`.
        soft_target: The divergence from the mixture in place of KL: ``dict(type='DIST')``,
            ``'DKD'``, ``'NKD'``, ``'HardTarget'`` or ``'CWD'``, with their own keys. The
            temperature above is their default. ``'CWD'`` mixes the class maps of dense heads cell
            by cell.
        hint_loss: Config of another loss of the hints, such as ``dict(type='CWDLoss')``.
        hint_weighting: ``'uniform'``, the paper's: the hints of all teachers are added.
            ``'image'``: the hint of teacher t for image i has the weight :math:`w_{t,i}` of the
            mixture, without gradient, so hints do not train the weighting. The weights add up to 1,
            so the sum is smaller than that of ``'uniform'``.

    Raises:
        ConfigError: If a number is out of range, taps of hints are missing, or there are fewer
            groups than teachers.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores
        >>> logits = [ClassScores.of_images(torch.rand(4, 10)) for _ in range(3)]
        >>> student = NetworkOutput(logits[0], {'backbone[-1]': torch.rand(4, 8, 2, 2)})
        >>> teachers = [NetworkOutput(one) for one in logits[1:]]
        >>> method = AMTMLKD(hint_weight=0.0, embedding_tap='backbone[-1]')
        >>> probes = [TeacherProbe('teacher', one, torch.nn.Identity()) for one in teachers]
        >>> method.build(Probe('student', student), probes)
        >>> list(method(student, teachers, torch.tensor([3, 1, 4, 1])))
        ['loss_kd', 'loss_weighting', 'loss_angle', 'weight_entropy']
        >>> method.mixture.weighting
        LatentTeacherWeighting()

    Reference:
        Liu, Zhang, Wang, Adaptive Multi-Teacher Multi-level Knowledge Distillation, Neurocomputing
        415, 2020. The authors' code (FLHonker/AMTML-KD-code) departs from the paper: average-pooled
        embedding, KL over N*C, two phases. The paper is followed here, but for the objective: the
        paper's is ``objective='paper'``. The hook ``FreezeTeacherWeights`` gives the two phases.
    """

    kd_weight: float
    angle_weight: float
    hint_weight: float

    def __init__(
        self,
        temperature: float = 5.0,
        kd_weight: float = 1.0,
        angle_weight: float = 1.0,
        hint_weight: float = 1.0,
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'label',
        embedding_tap: str | None = None,
        student_groups: str | Sequence[str] = (),
        teacher_taps: str | Sequence[str] = (),
        mapping: str | Sequence[int] = 'best_high',
        seed: int = 0,
        gather_angles: bool = False,
        angle_locations: int = 64,
        locations: Mapping[str, Any] | None = None,
        teacher_channels: Sequence[int] | None = None,
        standardize: bool = False,
        soft_target: Mapping[str, Any] | None = None,
        hint_loss: Mapping[str, Any] | None = None,
        hint_weighting: str = 'uniform',
    ) -> None:
        super().__init__(kd_weight=kd_weight, angle_weight=angle_weight, hint_weight=hint_weight)
        self.gather_angles = bool(gather_angles)
        self.angle_locations = positive_integer('angle_locations', angle_locations)
        one_of('hint_weighting', hint_weighting, ('uniform', 'image'))
        self.hints: GroupHints | None = None
        if self.hint_weight > 0:
            self.hints = GroupHints(
                student_groups,
                teacher_taps,
                self.hint_weight,
                mapping,
                seed,
                teacher_channels,
                hint_loss,
            )
        mixture = TeacherMixture(
            weighting,
            objective,
            embedding_tap,
            positive_number('temperature', temperature),
            LocationWeights.from_config(locations),
            teaches=self.kd_weight > 0,
            standardize=bool(standardize),
        )
        self.soft_target: MixtureLoss | None = None
        if soft_target is not None and self.kd_weight > 0:
            self.soft_target = mixture_part(soft_target, mixture)
            mixture.teaches = self.soft_target.teaches_weighting
        self._weighs_hints = hint_weighting == 'image' and self.hints is not None
        if self._weighs_hints and self.hints is not None:
            self.hints.require_image_weights('hint_loss')
        mixes = self.kd_weight > 0 or self.angle_weight > 0 or self._weighs_hints
        self.mixture = mixture if mixes else None

    def choose_taps(self, student: LevelFinder, teachers: Sequence[LevelFinder]) -> list[str]:
        return [] if self.hints is None else self.hints.choose_taps(student, teachers)

    def requests(self, num_teachers: int) -> Requests:
        parts = [part for part in (self.mixture, self.hints) if part is not None]
        requests = [part.requests(num_teachers) for part in parts]
        labels = self.soft_target is not None and self.soft_target.uses_labels
        hinted = () if self.hints is None else requests[-1].student
        return Requests(
            student=tuple(dict.fromkeys(tap for one in requests for tap in one.student)),
            teachers=requests[-1].teachers if requests else (),
            scores=any(one.scores for one in requests),
            labels=any(one.labels for one in requests),
            needs_labels=labels or any(one.needs_labels for one in requests),
            label_fix=LABEL_FIX if labels else requests[0].label_fix if requests else '',
            read_only=tuple(tap for one in requests for tap in one.read_only if tap not in hinted),
        )

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        if self.mixture is not None:
            self.mixture.build(student, teachers)
            if self.soft_target is not None:
                with config_key('soft_target'):
                    self.soft_target.require_distribution(student)
            require_gatherable('gather_angles', self.gather_angles, student)
        if self.hints is not None:
            self.hints.build(student, teachers)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        hint_weights = None
        if self.mixture is not None:
            mixed = self.mixture(student, teachers, labels)
            if self.kd_weight > 0:
                losses['loss_kd'] = self.kd_weight * self._divergence(
                    mixed, student, teachers, labels
                )
            losses.update(mixed.learning)
            if self.angle_weight > 0:
                angle = mixture_angle_loss(mixed, self.angle_locations, self.gather_angles)
                losses['loss_angle'] = self.angle_weight * angle
            losses.update(mixed.metrics)
            hint_weights = mixed.weights.detach() if self._weighs_hints else None
        if self.hints is not None:
            losses.update(self.hints(student, teachers, labels, hint_weights))
        return losses

    def _divergence(
        self,
        mixed: Mixture,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        labels: Tensor | None,
    ) -> Tensor:
        if self.soft_target is None:
            return mixed.divergence()
        return self.soft_target.mixed_divergence(mixed, student, teachers, labels)
