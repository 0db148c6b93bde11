"""The interface of rules that weigh several teachers for each image."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mmkd_plugin.errors import positive_integer


class TeacherWeighting(nn.Module, ABC):
    """Give each image a distribution over the teachers.

    The class attributes can be read before a rule is built.

    Args:
        num_teachers: T.
        embed_dims: d, the length of the student's embedding.

    Attributes:
        learns: Whether the rule has trainable parameters.
        needs_labels: Whether the rule needs labels.
        needs_logits: Whether the rule needs class scores of whole images, which detectors lack.

    Raises:
        ConfigError: If ``num_teachers`` is not a positive integer.
    """

    learns: bool = False
    needs_labels: bool = False
    needs_logits: bool = False

    def __init__(self, num_teachers: int, embed_dims: int | None = None) -> None:
        super().__init__()
        self.num_teachers = positive_integer('num_teachers', num_teachers)

    @abstractmethod
    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return the weight of each teacher for each image.

        Args:
            embedding: The student's embedding of each image, (N, d).
            teacher_logits: Class scores of all teachers, (N, T, C).
            labels: Class indices (N,) or class probabilities (N, C).

        Returns:
            Weights (N, T), each row non-negative with sum 1, in at least float32.
        """

    def freeze(self) -> None:
        """Keep the rule as it is from now on; only a learned rule changes at all."""
