"""What the distiller asks of a framework's model; this one serves a model that no host knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.outputs import Knowledge


class Host:
    """A model known only as an MMEngine model: it is distilled by its taps, its class scores are unknown."""

    #: What the model does: ``'classification'``, ``'detection'``, or ``''`` if unknown.
    task: str = ''
    #: The taps that the class scores are made of, in the student's training forward and in :meth:`run`; none if unknown.
    score_taps: tuple[str, ...] = ()
    #: Those of them that a training forward may leave out.
    optional_taps: frozenset[str] = frozenset()
    #: What to say to who asks for class scores of a model without :attr:`score_taps`.
    why_no_scores: str = 'use methods on taps alone'
    #: Whether its class scores are about regions that the training forward alone chooses.
    scores_need_training: bool = False
    #: Whether predictions of several such models have a mean.
    can_average: bool = False

    def run(self, model: nn.Module, inputs: Any, scores: bool, rois: Sequence[Tensor] = ()) -> None:
        """Run a network for its taps, without labels, at least cost: as teacher, for a probe, or as label-free student.

        Args:
            model: The network.
            inputs: A preprocessed batch, (N, C, H, W).
            scores: Whether the class scores are wanted as well.
            rois: The regions that the student's RoI head was asked about, by stage.
        """
        model(
            inputs, None, mode='tensor'
        )  # by position: frameworks call what comes with the inputs by many names

    def knowledge(
        self,
        model: nn.Module,
        features: Mapping[str, Tensor],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> Knowledge:
        """What a forward of ``model`` on ``inputs`` said, from what its taps recorded.

        Args:
            model: The network.
            features: By tap.
            inputs: The preprocessed batch, (N, C, H, W).
            data_samples: The host's; they know which part of each image is padding.
        """
        return Knowledge(features=features)

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

    def in_classes(self, predictions: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
        """Predictions in other classes: class i is what the model calls ``indices[i]``. What no host knows stays as it is."""
        return predictions
