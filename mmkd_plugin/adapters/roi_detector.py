"""MMDet's two-stage detectors: Faster, Mask and Cascade R-CNN."""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.adapters.detector import DetectorAdapter
from mmkd_plugin.outputs import ClassScores

_KNOWN = ('StandardRoIHead', 'CascadeRoIHead')


class RoIDetectorAdapter(DetectorAdapter):
    """A detector that scores the classes of regions of interest, once or stage by stage.

    The student's training forward samples the regions. A teacher's box head classifies the same
    regions, on the teacher's features. So distillation neither proposes nor samples regions.
    """

    scores_need_training = True

    def __init__(self, model: nn.Module) -> None:
        roi_head: Any = getattr(model, 'roi_head', None)
        box_head: Any = getattr(roi_head, 'bbox_head', None)
        self._cascade = isinstance(box_head, nn.ModuleList)
        heads: list[Any] = list(box_head) if self._cascade else [box_head]
        super().__init__(heads[0])
        custom = any(getattr(head, 'custom_cls_channels', False) for head in heads)
        if box_head is None or custom or not _is_known(roi_head):
            found = type(roi_head).__name__
            self.no_scores = f'known RoI heads are {", ".join(_KNOWN)}, not {found}'
            return
        suffixes = [f'.{stage}' for stage in range(len(heads))] if self._cascade else ['']
        self._stages = [
            # The first call: a mask head may share the extractor.
            (f'roi_head.bbox_roi_extractor{suffix}#0:input', f'roi_head.bbox_head{suffix}')
            for suffix in suffixes
        ]
        self.score_taps = {
            tap: pick
            for stage in self._stages
            for tap, pick in zip(stage, (_second, _first), strict=True)
        }
        self.optional_taps = frozenset(
            tap for stage in self._stages[1:] for tap in stage
        )  # a cascade ends where no region is left

    def run(
        self,
        model: nn.Module,
        inputs: Any,
        scores: bool,
        rois: Sequence[Tensor] = (),
        paths: Collection[str] = (),
        data_samples: Any = None,
    ) -> None:
        features = model.extract_feat(inputs)  # type: ignore[operator]
        if not scores or not self.score_taps:
            return
        for stage, regions in enumerate(rois or [_whole_images(inputs)] * len(self._stages)):
            before: tuple[int, ...] = (stage,) if self._cascade else ()
            model.roi_head._bbox_forward(*before, features, regions)  # type: ignore[union-attr, operator]

    def class_scores(
        self,
        model: nn.Module,
        found: Mapping[str, list[Tensor]],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> ClassScores | None:
        stages = [(*found[rois], *found[rows]) for rois, rows in self._stages if rois in found]
        by_image = [_by_image(rois, rows, len(inputs)) for rois, rows in stages]
        logits, valid = (torch.cat(parts, dim=1) for parts in zip(*by_image, strict=True))
        rois = tuple(rois for rois, _ in stages)
        return ClassScores(logits, 'softmax', background=True, rois=rois, valid=valid)


def _first(_: nn.Module, values: Any) -> list[Tensor]:
    return [values[0]]


def _second(_: nn.Module, values: Any) -> list[Tensor]:
    return [values[1]]


def _is_known(roi_head: nn.Module) -> bool:
    """Whether the box head is called as in a known class; a subclass may change all but that."""
    module: Any = sys.modules.get('mmdet.models.roi_heads')
    own = getattr(type(roi_head), '_bbox_forward', None)
    return any(own is getattr(module, name)._bbox_forward for name in _KNOWN)


def _whole_images(inputs: Tensor) -> Tensor:
    """Return each image as one region, (N, 5)."""
    height, width = inputs.shape[2:]
    corners = torch.tensor([0.0, 0.0, width, height], device=inputs.device).expand(len(inputs), 4)
    return torch.cat([torch.arange(len(inputs), device=inputs.device)[:, None], corners], dim=1)


def _by_image(rois: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Arrange the scores (R, C) of regions by image: (N, A, C), and the mask of regions (N, A)."""
    images = rois[:, 0].long()
    regions = torch.bincount(images, minlength=count)
    slots = torch.arange(len(rois), device=rois.device) - (regions.cumsum(0) - regions)[images]
    valid = torch.arange(int(regions.max()), device=rois.device) < regions[:, None]
    logits = rows.new_zeros(*valid.shape, rows.shape[1]).index_put((images, slots), rows)
    return logits, valid
