"""Angles between the class probabilities of images, after those of one or several teachers."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError, positive_integer, positive_number
from mmkd_plugin.models.losses import angle_loss
from mmkd_plugin.models.losses.functional import gather_rows
from mmkd_plugin.models.methods.base import Method, Requests
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.models.methods.teacher_mixture import Mixture, TeacherMixture
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class AngleTransfer(Method):
    r"""Match the angles of all triplets of images: AMTML-KD's angle loss, alone.

    .. math:: L = w\,L_{angle}(\hat y, \mathrm{softmax}(z_S / \tau))

    with :math:`\hat y` the mixture of the teachers' softened probabilities. For detectors the
    points are not images but the locations of the batch where the teachers are most confident.

    Args:
        temperature: :math:`\tau`, of both sides.
        loss_weight: :math:`w`.
        weighting: Rule that weighs the teachers for each image; their mean if it is None.
        objective: How a weighting learns: under ``'label'`` by the cross-entropy of the mixture.
            ``'paper'`` would give it no gradient here, and is refused for a weighting that learns.
        embedding_tap: The student's embedding, for the weighting; found by default.
        gather: Take triplets from the batches of all ranks, not from each rank's own; not for
            detectors.
        num_locations: How many locations of a detector's batch are compared.
        locations: Weights of the locations of detectors.

    Raises:
        ConfigError: If a number or a word is out of range, or a weighting could not learn.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores
        >>> embedding = {'backbone[-1]': torch.rand(4, 8)}
        >>> student = NetworkOutput(ClassScores.of_images(torch.rand(4, 10)), embedding)
        >>> teacher = NetworkOutput(ClassScores.of_images(torch.rand(4, 10)))
        >>> method = AngleTransfer(embedding_tap='backbone[-1]')
        >>> probe = TeacherProbe('teacher', teacher, torch.nn.Identity())
        >>> method.build(Probe('student', student), [probe])
        >>> list(method(student, [teacher], None))
        ['loss_angle', 'weight_entropy']

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019, eq. 8-10; Liu et al., AMTML-KD,
        Neurocomputing 415, 2020, section 3.3.
    """

    loss_weight: float

    def __init__(
        self,
        temperature: float = 5.0,
        loss_weight: float = 1.0,
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'label',
        embedding_tap: str | None = None,
        gather: bool = False,
        num_locations: int = 64,
        locations: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight)
        self.gather = bool(gather)
        self.num_locations = positive_integer('num_locations', num_locations)
        self.mixture = TeacherMixture(
            weighting or {'type': 'UniformTeacherWeighting'},
            objective,
            embedding_tap,
            positive_number('temperature', temperature),
            LocationWeights.from_config(locations),
            teaches=False,
        )
        if self.mixture.learns and objective == 'paper':
            raise ConfigError(
                'objective',
                "must be 'label' for a weighting that learns: the angle loss gives it no gradient",
                "Set objective='label', or use AMTMLKD, whose KL term reaches the weighting.",
                found=objective,
            )

    def requests(self, num_teachers: int) -> Requests:
        return self.mixture.requests(num_teachers)

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        self.mixture.build(student, teachers)
        require_gatherable('gather', self.gather, student)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        mixed = self.mixture(student, teachers, labels)
        loss = mixture_angle_loss(mixed, self.num_locations, self.gather)
        return {**mixed.learning, 'loss_angle': self.loss_weight * loss, **mixed.metrics}


def mixture_angle_loss(mixed: Mixture, num_locations: int, gather: bool) -> Tensor:
    """Return the angle loss between the student's probabilities and the detached mixture.

    Args:
        mixed: Mixed soft targets of the batch.
        num_locations: How many locations of a detector's batch are compared.
        gather: Whether the rows of all ranks are compared.
    """
    rows = mixed.rows
    pair = rows.probabilities(rows.student / mixed.temperature), mixed.target.detach()
    if rows.confidence is not None:
        top = rows.confidence.topk(min(num_locations, len(rows.confidence))).indices
        pair = pair[0][top], pair[1][top]
    if gather:
        pair = gather_rows(pair[0]), gather_rows(pair[1])
    return angle_loss(*pair)


def require_gatherable(key: str, gather: bool, student: Probe) -> None:
    """Refuse to gather the locations of detectors, whose number differs between ranks.

    Raises:
        ConfigError: If ``gather`` is set for a detector; about ``key``.
    """
    scores = student.output.scores
    if gather and scores is not None and not scores.per_image:
        raise ConfigError(
            key, 'must be False for detectors, whose ranks have different locations', found=True
        )
