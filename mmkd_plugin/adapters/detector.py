"""What all of MMDet's detectors have in common."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Host


class DetectorHost(Host):
    """A detector with ``extract_feat``: backbone and neck; what comes after them is known to a subclass.

    Args:
        head: The part that classifies; it knows the number of classes.
    """

    task = 'detection'

    def __init__(self, head: nn.Module | None = None) -> None:
        self.num_classes: int | None = getattr(head, 'num_classes', None)

    def run(self, model: nn.Module, inputs: Any, scores: bool, rois: Sequence[Tensor] = ()) -> None:
        model.extract_feat(inputs)  # type: ignore[operator]

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        """Which classes are in each image, (N, C) of 0 and 1: all that a detection data set says of an image as a whole."""
        if self.num_classes is None or self.missing_labels(data_samples):
            return None
        assert data_samples is not None
        labels = [sample.gt_instances.labels for sample in data_samples]
        present = torch.zeros(len(labels), self.num_classes, device=labels[0].device)
        for row, found in zip(present, labels, strict=True):
            row[found] = 1.0
        return present

    def missing_labels(self, data_samples: Sequence[Any] | None) -> bool:
        return not data_samples or any('gt_instances' not in sample for sample in data_samples)

    def in_classes(self, predictions: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
        """Boxes of other classes go."""
        for sample in predictions:
            labels = sample.pred_instances.labels
            renamed = torch.full_like(labels, -1)
            for index, own in enumerate(indices):
                renamed[labels == own] = index
            sample.pred_instances.labels = renamed
            sample.pred_instances = sample.pred_instances[renamed >= 0]
        return predictions
