"""The common part of MMDet's detectors, and detectors whose class scores cannot be compared."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.base import Adapter


class DetectorAdapter(Adapter):
    """A detector with ``extract_feat``: its backbone and neck can be tapped.

    Args:
        head: The part that classifies; it knows the number of classes.
    """

    task = 'detection'

    def __init__(self, head: nn.Module | None = None) -> None:
        self.num_classes: int | None = getattr(head, 'num_classes', None)

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        model.extract_feat(inputs)  # type: ignore[operator]

    def labels(self, data_samples: Sequence[Any] | None) -> Tensor | None:
        """Return which classes are in each image, (N, C) of 0 and 1: the labels of whole images."""
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
        """Rename the classes of boxes; boxes of other classes are removed."""
        for sample in predictions:
            labels = sample.pred_instances.labels
            renamed = torch.full_like(labels, -1)
            for index, own in enumerate(indices):
                renamed[labels == own] = index
            sample.pred_instances.labels = renamed
            sample.pred_instances = sample.pred_instances[renamed >= 0]
        return predictions


class QueryDetectorAdapter(DetectorAdapter):
    """DETR and its kin: queries of two networks do not correspond, so only taps are compared."""

    no_scores = 'queries of two networks do not correspond'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(getattr(model, 'bbox_head', None))
