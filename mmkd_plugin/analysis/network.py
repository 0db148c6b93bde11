"""A trained network that is analysed."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters import TappedModel
from mmkd_plugin.adapters.compat import ClassMap
from mmkd_plugin.errors import ConfigError


class LoadedNetwork(TappedModel):
    """A trained network: frozen, in eval mode, and run under its own preprocessing.

    Args:
        name: Its name in pictures and messages.
        model: The network.
        classes: Class names in its checkpoint, if it has any.
        class_map: For each class of the data the network's index of it, if they differ.
        sha256: SHA-256 of its checkpoint, hexadecimal; only teachers have it.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        classes: Sequence[str] | None = None,
        class_map: Sequence[int] | None = None,
        sha256: str | None = None,
    ) -> None:
        model.requires_grad_(False)
        model.eval()  # a host's own train() may return nothing
        super().__init__(model, name)
        self.name = name
        self.classes = classes
        self.class_map = ClassMap(class_map, f'{name}.class_map')
        self.sha256 = sha256

    def inputs(self, raw: Any) -> Tensor:
        """Preprocess a raw batch, (N, C, H, W)."""
        inputs: Tensor = self._preprocess(raw)['inputs']
        return inputs

    def labels(self, raw: Any) -> Tensor:
        """Return the class indices of a raw batch, (N,).

        Raises:
            ConfigError: If the images do not have one label each.
        """
        labels = self.adapter.labels(self._preprocess(raw).get('data_samples'))
        if labels is None:
            problem = 'must hold images with one label each'
            raise ConfigError('--split', problem, 'cka and active need no labels.')
        return labels.argmax(dim=1) if labels.ndim == 2 else labels

    def record(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """Run the whole network and return what the requested taps recorded, in execution order."""
        with self.recording(inputs) as recording:
            self.adapter.run(self.model, inputs, scores=True)
        return recording.output.features

    def request_scores(self) -> None:
        """Request class scores of images, and no taps.

        Raises:
            ConfigError: If the network is no classifier whose class scores are known.
        """
        if self.adapter.task != 'classification' or not self.adapter.score_taps:
            raise ConfigError(
                self.name,
                'must be a classifier whose class scores are known',
                'cka and active work on any network.',
                found=type(self.model).__name__,
            )
        self.request([], scores=True)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return the class scores (N, C) of a preprocessed batch, before the activation.

        :meth:`request_scores` comes first.
        """
        scores = self.class_map(self.observe(inputs)).scores
        assert scores is not None, 'class scores were not requested'
        return scores.logits[:, 0]

    @torch.no_grad()
    def predict(self, raw: Any) -> Sequence[Any]:
        """Return data samples with the predictions for a raw batch, in the classes of the data."""
        copied = copy.deepcopy(raw)  # frameworks write into their input
        samples: Sequence[Any] = self.model.test_step(copied)  # type: ignore[operator]
        indices = self.class_map.indices
        return samples if indices is None else self.adapter.in_classes(samples, indices)

    def _preprocess(self, raw: Any) -> Mapping[str, Any]:
        preprocessor: Any = self.model.data_preprocessor
        batch: Mapping[str, Any] = preprocessor(copy.deepcopy(raw), False)
        return batch
