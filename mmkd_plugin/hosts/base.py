"""What the distiller asks of a framework's model; this one serves a model that no host knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.knowledge import Knowledge


class Host:
    """A model known only as an MMEngine model: it is distilled by its taps, its class scores are unknown."""

    #: The tap whose tensor is the class scores, in the student's training forward and in :meth:`run`; None if unknown.
    score_tap: str | None = None
    #: Whether predictions of several such models have a mean.
    can_average: bool = False

    def run(self, model: nn.Module, inputs: Any, scores: bool) -> None:
        """Run a network for its taps, without labels, at least cost: as teacher, for a probe, or as label-free student.

        Args:
            model: The network.
            inputs: A preprocessed batch, (N, C, H, W).
            scores: Whether the class scores are wanted as well.
        """
        model(inputs, None, mode='tensor')  # by position: frameworks call what comes with the inputs by many names

    def knowledge(self, model: nn.Module, features: Mapping[str, Tensor], inputs: Any) -> Knowledge:
        """What a forward of ``model`` on ``inputs`` said, from what its taps recorded."""
        return Knowledge(features.get(self.score_tap) if self.score_tap else None, features)

    def put_back(self, output: Tensor, feature: Tensor) -> Tensor:
        """A feature such as :meth:`knowledge` gives, in the form of the module's ``output`` that it was made of."""
        return feature

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        """The batch's labels, (N,) indices or (N, C) probabilities; None if it has none or they are unknown."""
        return None

    def missing_labels(self, data_samples: Sequence[Any] | None) -> bool:
        """Whether the task loss cannot be computed on this batch for lack of labels; an unknown model is left to say so itself."""
        return False

    def average(self, predictions: Sequence[Sequence[Any]]) -> list[Any]:
        """The mean of several models' predictions of one batch, as one model's; only where :attr:`can_average`."""
        raise NotImplementedError
