"""What a method is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from mmkd_plugin.outputs import Knowledge


class Method(nn.Module, ABC):
    """Turns the knowledge of a student and its teachers into losses.

    A subclass says what it needs, builds its connectors in :meth:`bind`, and sees tensors alone: no model, path or data sample.
    """

    #: What it wants recorded of the student, and of every teacher.
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    #: Whether it wants class scores of the student and the teachers.
    needs_scores: bool = True
    #: Whether it cannot do without labels.
    needs_labels: bool = False

    @property
    def active(self) -> bool:
        """False if all its weights are 0: then it is not built into the run, and asks for no teacher."""
        return True

    def taps_of_teacher(self, index: int, count: int) -> tuple[str, ...]:
        """What it wants recorded of teacher ``index`` of ``count``; :attr:`teacher_taps` unless teachers differ."""
        return self.teacher_taps

    def norms_of_teacher(self, index: int, count: int) -> tuple[str, ...]:
        """Paths of the normalisation layers of teacher ``index`` whose scale and shift :meth:`bind` wants to see."""
        return ()

    def bind(self, student: Knowledge, teachers: Sequence[Knowledge]) -> None:
        """Build connectors for the shapes of one probe image; called once, before the optimizer is built.

        Raises:
            ValueError: If the shapes do not fit the config.
        """

    def set_teacher_order(self, order: Sequence[int]) -> None:
        """Learn the measured order of the teachers, best first, as indices."""

    @property
    def files_of_teachers(self) -> Sequence[tuple[int, bytes]]:
        """For each loaded connector its teacher's index, and the SHA-256 of the file that it was trained on: the run must have the same."""
        return ()

    @property
    def apart(self) -> nn.Module | None:
        """Connectors that learn from the teachers' knowledge alone, by a loss and an optimizer of their own; None if there are none.

        They are no children of the method, which only reads them. Called with the teachers' knowledge, without gradient, they give
        a dict of losses and facts, as :meth:`forward` does. A distiller with frozen teachers has nobody to train them, and refuses.
        """
        return None

    @abstractmethod
    def forward(
        self, student: Knowledge, teachers: Sequence[Knowledge], labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            student: With gradient.
            teachers: Without.
            labels: (N,) class indices, (N, C) class probabilities (Mixup, CutMix), or None.

        Returns:
            Scalars by name. One with ``loss`` in its name is added to the total; any other is a fact, logged only.
        """
