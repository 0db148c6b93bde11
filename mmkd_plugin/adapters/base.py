"""How a framework's model is run and read; this adapter serves models that no other one knows."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmkd_plugin.adapters.layout import Layout
from mmkd_plugin.outputs import BoxOutputs, ClassScores


class Adapter:
    """Adapter of a model of which only the MMEngine interface is known.

    Such a model is distilled by its taps; its class scores are unknown.
    """

    #: Task of the model: ``'classification'``, ``'detection'``, or ``''`` if unknown.
    task: str = ''
    #: Taps of the class scores, each with a function that picks their tensors out of what the
    #: tapped module returns. They run in the student's training forward and in :meth:`run`.
    score_taps: Mapping[str, Callable[[nn.Module, Any], list[Tensor]]] = {}
    #: Taps of the boxes at the locations of the class scores, in the same form; a subset of them.
    box_taps: Mapping[str, Callable[[nn.Module, Any], list[Tensor]]] = {}
    #: Score taps that a forward may leave out.
    optional_taps: frozenset[str] = frozenset()
    #: Why there are no score taps, for messages.
    no_scores: str = 'no adapter knows this model'
    #: Whether :meth:`watch` notes anything.
    watches: bool = False
    #: Whether the class scores belong to regions that only the training forward chooses.
    scores_need_training: bool = False
    #: Whether predictions of several such models can be averaged.
    can_average: bool = False
    #: Why no module of the model can be tapped, for messages; empty if some can.
    no_taps: str = ''
    #: Queries that all networks of a run decode, by argument of the decoder; see
    #: :meth:`find_queries`. None for models without queries.
    queries: Mapping[str, Tensor] | None = None

    @property
    def scores_known(self) -> bool:
        """Whether the class scores of the model can be read."""
        return bool(self.score_taps)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Note what :meth:`class_scores` needs beside the score taps while a model runs."""
        yield

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        """Run a model for its taps, without labels, at least cost.

        Args:
            model: The network.
            inputs: A preprocessed batch, (N, C, H, W).
            scores: Whether the class scores are needed as well.
            rois: Regions that the student's RoI head classified, by stage.
            paths: Paths of the tapped modules, all of which must run.
            data_samples: The framework's, without their annotations; None if there are none.
        """
        model(inputs, data_samples, mode='tensor')  # by position: frameworks name them differently

    def obstacle(self, model: nn.Module, path: str) -> str:
        """Return why :meth:`run` cannot run a module for its taps; empty if nothing is known."""
        return ''

    def needs_regions(self, path: str) -> bool:
        """Whether a module runs on regions that the student's training forward samples."""
        return False

    def find_queries(self, model: nn.Module, inputs: Tensor) -> Mapping[str, Tensor]:
        """Return the queries of a frozen network, where :attr:`queries` is not None.

        Args:
            model: The network.
            inputs: Blank images, (N, C, H, W).
        """
        raise TypeError(f'{type(self).__name__} has no queries')

    def blank_samples(self, inputs: Tensor) -> Any:
        """Return data samples of blank images without annotations; None if a model needs none."""
        return None

    def known_layout(
        self, model: nn.Module, tap: str, shape: Sequence[int], size: Sequence[int]
    ) -> Layout | None:
        """Return the layout of a tap of a network that accepts one size alone; None if unknown.

        Args:
            model: The network.
            tap: The tap.
            shape: Shape of the tapped tensor.
            size: (height, width) of the input.
        """
        return None

    def class_scores(
        self,
        model: nn.Module,
        found: Mapping[str, list[Tensor]],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> ClassScores | None:
        """Make class scores of what the score taps recorded.

        Args:
            model: The network.
            found: Recorded tensors by score tap.
            inputs: The preprocessed batch, (N, C, H, W).
            data_samples: The framework's; they know the padding of each image.
        """
        return None

    def box_outputs(
        self, model: nn.Module, found: Mapping[str, list[Tensor]], scores: ClassScores
    ) -> BoxOutputs | None:
        """Make boxes of what the box taps recorded, at the locations of the class scores."""
        return None

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        """Return the labels of a batch: (N,) indices or (N, C) probabilities; None if unknown."""
        return None

    def object_boxes(self, data_samples: Sequence[Any] | None) -> list[Tensor] | None:
        """Return the corners (M, 4) of each image's objects, in pixels; None if unknown."""
        return None

    def image_areas(self, data_samples: Sequence[Any] | None) -> list[tuple[int, int]] | None:
        """Return (height, width) of each image with its own padding; None if unknown."""
        return None

    def missing_labels(self, data_samples: Sequence[Any] | None) -> bool:
        """Whether a batch lacks the labels that the task loss needs; False for unknown models."""
        return False

    def average(self, predictions: Sequence[Sequence[Any]]) -> list[Any]:
        """Average the predictions of several models for one batch, where :attr:`can_average`."""
        raise TypeError(f'{type(self).__name__} cannot average predictions')

    def in_classes(self, predictions: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
        """Rename the classes of predictions: class i is what the model calls ``indices[i]``."""
        return predictions
