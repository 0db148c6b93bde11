"""CWD: the distribution of each channel over the map."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd_plugin.adapters.levels import WORDS, LevelFinder
from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import ConfigError, positive_number
from mmkd_plugin.models.losses import cwd_loss
from mmkd_plugin.models.methods.base import Requests
from mmkd_plugin.models.methods.class_maps import class_map_divergence, require_class_maps
from mmkd_plugin.models.methods.connected import ConnectedMethod
from mmkd_plugin.models.methods.mixture_loss import MixtureLoss
from mmkd_plugin.models.methods.teacher_mixture import Mixture, TeacherMixture
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class CWD(ConnectedMethod, MixtureLoss):
    r"""Match where each channel is active, for any pairs of taps, or for the class scores.

    .. math:: L = w \sum_p \frac{\tau^2}{N C} \sum_{n, c} \mathrm{KL}\bigl(
              \mathrm{softmax}_{hw}(t^p_{nc} / \tau) \,\|\, \mathrm{softmax}_{hw}(s^p_{nc} / \tau)
              \bigr)

    There is no connector if the channels are equal, and a 1x1 convolution if they differ. With
    ``pairs='scores'`` the sum runs over the levels of a dense head. Its channels are the classes of
    each anchor, its cells those outside the padding, and several teachers become a mixture; see
    :func:`~mmkd_plugin.models.methods.class_maps.class_map_divergence`.

    Args:
        pairs: See :class:`~mmkd_plugin.models.methods.paired.PairedMethod`: levels of the pyramid;
            or ``'scores'``.
        temperature: :math:`\tau`: by default 1 for maps, and 4 for class scores, as the authors
            have for segmentors.
        loss_weight: :math:`w`: by default 10 for maps, which is for levels of a pyramid, and 3 for
            class scores, as the authors have for segmentors.

    Raises:
        ConfigError: If a pair lacks a tap, a tap records no map, the class scores form no maps, or
            a number is out of range.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores
        >>> logits = torch.tensor([1.0, 4.0]).log().reshape(1, 2, 1)  # a fifth and four fifths
        >>> levels = ((1, 2, 1),)
        >>> teacher = NetworkOutput(ClassScores(logits, 'sigmoid', levels=levels))
        >>> student = NetworkOutput(ClassScores(0 * logits, 'sigmoid', levels=levels))
        >>> CWD('scores', temperature=1.0, loss_weight=1.0)(student, [teacher], None)
        {'loss_cwd': tensor(0.1927)}

    Reference:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, and
        github.com/irfanICMLL/TorchDistiller.
    """

    loss_name = 'loss_cwd'
    words = (*WORDS, 'scores')

    def __init__(
        self,
        pairs: Sequence[Mapping[str, Any]] | str,
        temperature: float | None = None,
        loss_weight: float | None = None,
    ) -> None:
        of_scores = pairs == 'scores'
        if loss_weight is None:
            loss_weight = 3.0 if of_scores else 10.0
        super().__init__(pairs, loss_weight=loss_weight)
        if temperature is None:
            temperature = 4.0 if of_scores else 1.0
        self.temperature = positive_number('temperature', temperature)
        self.of_scores = self.reads_every_location = of_scores

    def choose_taps(self, student: LevelFinder, teachers: Sequence[LevelFinder]) -> list[str]:
        return [] if self.of_scores else super().choose_taps(student, teachers)

    def requests(self, num_teachers: int) -> Requests:
        if self.of_scores:
            return Requests(teachers=((),) * num_teachers, scores=True)
        return super().requests(num_teachers)

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        if self.of_scores:
            require_class_maps(student)
        else:
            super().build(student, teachers)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        if not self.of_scores:
            return super().forward(student, teachers, labels)
        divergence = class_map_divergence(student, teachers, float(self.temperature))
        return {self.loss_name: self.loss_weight * divergence}

    def pair_loss(self, number: int, student: Tensor, teacher: Tensor) -> Tensor:
        return cwd_loss(self.connect(number, student, teacher), teacher, self.temperature)

    # As the divergence from a mixture that another method makes

    @classmethod
    def part_settings(cls, mixture: TeacherMixture) -> dict[str, Any]:
        if mixture.standardize:
            raise ConfigError(
                'standardize',
                'must be False beside CWD, which normalises over the cells and not the classes',
                found=True,
            )
        return dict(pairs='scores', temperature=mixture.temperature)

    def require_distribution(self, student: Probe) -> None:
        if not self.of_scores:
            raise ConfigError('pairs', "must be 'scores': a mixture has no maps", found=self.pairs)
        require_class_maps(student)

    def mixed_divergence(
        self,
        mixed: Mixture,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        labels: Tensor | None,
    ) -> Tensor:
        weights = mixed.teaching_weights
        return class_map_divergence(student, teachers, float(self.temperature), weights)
