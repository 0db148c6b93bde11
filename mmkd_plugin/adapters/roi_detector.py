"""MMDet's two-stage detectors: Faster, Mask and Cascade R-CNN."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.detector import DetectorHost
from mmkd_plugin.outputs import ClassScores, Knowledge


class RoIDetectorHost(DetectorHost):
    """A detector that gives class scores of regions of interest, once or stage by stage.

    The student's regions are those that its own training samples; a teacher's box head is asked about the very same regions, on the
    teacher's own features. So neither proposes nor samples anything for the sake of distillation.
    """

    scores_need_training = True

    def __init__(self, model: nn.Module) -> None:
        roi_head: Any = getattr(model, 'roi_head', None)
        box_head: Any = getattr(roi_head, 'bbox_head', None)
        self._cascade = isinstance(box_head, nn.ModuleList)
        heads: list[Any] = list(box_head) if self._cascade else [box_head]
        super().__init__(heads[0])
        if (
            box_head is None
            or not _known(roi_head)
            or any(getattr(head, 'custom_cls_channels', False) for head in heads)
        ):
            self.why_no_scores = f'of a {type(roi_head).__name__} the taps alone are known; class scores of StandardRoIHead, CascadeRoIHead'
            return
        stages = [f'.{stage}' for stage in range(len(heads))] if self._cascade else ['']
        # The first call: a mask head may share the extractor.
        self._stages = [
            (f'roi_head.bbox_roi_extractor{stage}#0:input[1]', f'roi_head.bbox_head{stage}[0]')
            for stage in stages
        ]
        self.score_taps = tuple(tap for stage in self._stages for tap in stage)
        self.optional_taps = frozenset(
            self.score_taps[2:]
        )  # a cascade ends where no region is left

    def run(self, model: nn.Module, inputs: Any, scores: bool, rois: Sequence[Tensor] = ()) -> None:
        features = model.extract_feat(inputs)  # type: ignore[operator]
        if not scores or not self.score_taps:
            return
        for stage, regions in enumerate(rois or [_whole(inputs)] * len(self._stages)):
            before: tuple[int, ...] = (stage,) if self._cascade else ()
            model.roi_head._bbox_forward(*before, features, regions)  # type: ignore[union-attr, operator]

    def knowledge(
        self,
        model: nn.Module,
        features: Mapping[str, Tensor],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> Knowledge:
        if not self.score_taps or not features.keys() >= set(self.score_taps) - self.optional_taps:
            return Knowledge(features=features)
        stages = [
            (features[rois], features[rows]) for rois, rows in self._stages if rois in features
        ]
        by_image = [_by_image(rois, rows, len(inputs)) for rois, rows in stages]
        logits, valid = (torch.cat(parts, dim=1) for parts in zip(*by_image, strict=True))
        return Knowledge(
            ClassScores(logits, 'softmax', rois=tuple(rois for rois, _ in stages), valid=valid),
            features,
        )


def _known(roi_head: nn.Module) -> bool:
    """Whether the box head is asked as a listed class asks it: a subclass may have changed everything else."""
    module: Any = sys.modules.get('mmdet.models.roi_heads')
    own = getattr(type(roi_head), '_bbox_forward', None)
    return any(
        own is getattr(module, name)._bbox_forward for name in ('StandardRoIHead', 'CascadeRoIHead')
    )


def _whole(inputs: Tensor) -> Tensor:
    """Each image as one region, (N, 5)."""
    height, width = inputs.shape[2:]
    corners = torch.tensor([0.0, 0.0, width, height], device=inputs.device).expand(len(inputs), 4)
    return torch.cat([torch.arange(len(inputs), device=inputs.device)[:, None], corners], dim=1)


def _by_image(rois: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores (R, C) of regions in the order of their images as (N, A, C), and which of these places are regions, (N, A)."""
    images = rois[:, 0].long()
    regions = torch.bincount(images, minlength=count)
    places = torch.arange(len(rois), device=rois.device) - (regions.cumsum(0) - regions)[images]
    valid = torch.arange(int(regions.max()), device=rois.device) < regions[:, None]
    logits = rows.new_zeros(*valid.shape, rows.shape[1]).index_put((images, places), rows)
    return logits, valid
