"""The interface of a method: it turns model outputs into losses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mmkd_plugin.adapters.levels import LevelFinder
from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.outputs import NetworkOutput


@dataclass(frozen=True)
class Requests:
    """The needs of a method: taps, class scores, labels.

    Args:
        student: Taps of the student.
        teachers: Taps of each teacher, in order; empty if the method taps no teacher.
        scores: Whether class scores of all networks are needed.
        boxes: Whether the boxes of all networks are needed, at the locations of the class scores,
            which are then there as well.
        labels: Whether the method uses labels where a batch has them.
        needs_labels: Whether a batch without labels is an error.
        label_fix: The remedy then: what to change in the method's config.
        objects: Whether the boxes of the annotated objects are needed: ``student.objects``.
        assigned: Whether the class scores of the student need the objects that its assigner gave
            to their locations: ``student.scores.assigned``.
        read_only: Taps of the student that need no gradient, such as the input of a weighting.
    """

    student: tuple[str, ...] = ()
    teachers: tuple[tuple[str, ...], ...] = ()
    scores: bool = False
    labels: bool = False
    needs_labels: bool = False
    label_fix: str = ''
    read_only: tuple[str, ...] = ()
    boxes: bool = False
    objects: bool = False
    assigned: bool = False


class Method(nn.Module, ABC):
    """Turn the outputs of a student and its teachers into losses.

    A subclass states its needs in :meth:`requests`, builds its connectors in :meth:`build`, and
    computes losses in :meth:`forward`. It receives tensors, and no model.

    Args:
        weights: Weights of its losses, by name; each becomes an attribute. A method whose weights
            are all 0 takes no part in the run.

    Raises:
        ConfigError: If a weight is no finite number >= 0.

    Example:
        A method that pulls the mean of a student's map to that of the first teacher's:

        >>> class MeanTransfer(Method):
        ...     loss_weight: float
        ...     def __init__(self, loss_weight=1.0):
        ...         super().__init__(loss_weight=loss_weight)
        ...     def requests(self, num_teachers):
        ...         return Requests(('backbone',), (('backbone',),) * num_teachers)
        ...     def forward(self, student, teachers, labels):
        ...         own, target = student.feature('backbone'), teachers[0].feature('backbone')
        ...         return {'loss_mean': self.loss_weight * (own.mean() - target.mean()) ** 2}
        >>> MeanTransfer(0.0).active
        False
    """

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self._weight_names = tuple(weights)
        for name, value in weights.items():
            setattr(self, name, non_negative_number(name, value))

    @property
    def stated_weights(self) -> list[float]:
        """Weights of its losses: numbers, or scheduled numbers."""
        return [getattr(self, name) for name in self._weight_names]

    @property
    def loss_weights(self) -> dict[str, float]:
        """Present weights of its losses, by name."""
        return {name: float(getattr(self, name)) for name in self._weight_names}

    @property
    def active(self) -> bool:
        """Whether a weight is above 0; an inactive method requests no teacher."""
        return not self._weight_names or any(getattr(self, name) for name in self._weight_names)

    def choose_taps(self, student: LevelFinder, teachers: Sequence[LevelFinder]) -> list[str]:
        """Replace words such as ``'stages'`` by taps; called once, before :meth:`requests`.

        Args:
            student: Finds levels of the student.
            teachers: Finds levels of each teacher.

        Returns:
            The chosen taps with their shapes, in sentences.

        Raises:
            ConfigError: If a network has no such levels.
        """
        return []

    @abstractmethod
    def requests(self, num_teachers: int) -> Requests:
        """Return what the method needs of the student and of ``num_teachers`` teachers.

        Raises:
            ConfigError: If the config does not fit that number.
        """

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        """Build connectors for the shapes of one blank image; called once, before the optimizer.

        Raises:
            ConfigError: If the shapes do not fit the config.
        """

    @property
    def auxiliary(self) -> nn.Module | None:
        """Modules that learn from the teachers' outputs alone, by their own loss and optimizer.

        They are no children of the method, which only reads them. Called with the list of the
        teachers' outputs, without gradient, they return a dict as :meth:`forward` does. Only
        mutual learning trains them; None by default.
        """
        return None

    @abstractmethod
    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            student: Outputs with gradient.
            teachers: Outputs without gradient.
            labels: Class indices (N,), or class probabilities (N, C) after Mixup and CutMix. For
                detectors (N, C) with 1 for each class in the image. None if not requested, or if
                the batch has none.

        Returns:
            Scalars by name. A value with ``loss`` in its name is added to the total; any other is
            a metric that is only logged.
        """
