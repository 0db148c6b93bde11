"""The losses that a mixture of teachers can have, and how one becomes a part of another method."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.methods.base import Method
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.models.methods.teacher_mixture import Mixture, TeacherMixture
from mmkd_plugin.outputs import NetworkOutput
from mmkd_plugin.registry import build_part, class_of

LABEL_FIX = "Use 'SoftTarget' or 'DIST', which need no labels."


class MixtureLoss(Method):
    """A method that can also compare the student with a mixture that another method makes.

    Attributes:
        uses_labels: Whether the loss needs the class of each image.
        teaches_weighting: Whether the loss can train a weighting; see ``objective='paper'``.
        reads_every_location: Whether the loss reads more of a detector than the locations that the
            weights of locations keep.
    """

    uses_labels: ClassVar[bool] = False
    teaches_weighting: ClassVar[bool] = True
    reads_every_location: bool = False
    locations: LocationWeights

    @classmethod
    def part_settings(cls, mixture: TeacherMixture) -> dict[str, Any]:
        """Return the arguments of the part that the mixture decides.

        Raises:
            ConfigError: If the mixture has a setting that the loss cannot follow.
        """
        return dict(temperature=mixture.temperature)

    def require_distribution(self, student: Probe) -> None:
        """Refuse heads whose outputs the loss cannot compare.

        Raises:
            ConfigError: About ``type``, or the key that does not fit.
        """

    def require_objective(self, mixture: TeacherMixture) -> None:
        """Refuse a weighting that would learn from this loss, if it cannot.

        A cross-entropy prefers the teachers that deny the label, and an argmax has no gradient.

        Raises:
            ConfigError: If the weighting would learn from it.
        """
        if mixture.learns and mixture.objective == 'paper' and not self.teaches_weighting:
            raise ConfigError(
                'objective',
                f"must be 'label' for a weighting that learns: it cannot learn from the loss of "
                f'{type(self).__name__}',
                found='paper',
            )

    @abstractmethod
    def mixed_divergence(
        self,
        mixed: Mixture,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        labels: Tensor | None,
    ) -> Tensor:
        """Compute the loss between the student and a mixture, without its weight.

        Args:
            mixed: The mixture of the batch.
            student: Outputs of the student.
            teachers: Outputs of the teachers.
            labels: Labels of the images; None if the batch has none.
        """


def mixture_part(config: Mapping[str, Any], mixture: TeacherMixture) -> MixtureLoss:
    """Build a method whose loss compares the student with a mixture that another method makes.

    Args:
        config: Config under the key ``soft_target``.
        mixture: The mixture, whose temperature is the default.

    Raises:
        ConfigError: If the type is none of these methods, a key belongs to the other method, or the
            loss cannot follow the mixture or train its weighting.
    """
    shared = ('loss_weight', 'standardize', 'ensemble', 'weighting', 'objective')
    for name in (*shared, 'embedding_tap', 'locations'):
        if name in config:
            raise ConfigError(
                f'soft_target.{name}',
                'must be left out: the method that mixes the teachers has this key',
                found=config[name],
            )
    kind = class_of(config, MixtureLoss, 'soft_target')
    part = build_part(config, MixtureLoss, 'soft_target', **kind.part_settings(mixture))
    part.require_objective(mixture)
    part.locations = mixture.locations
    return part
