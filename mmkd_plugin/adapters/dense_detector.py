"""MMDet's one-stage detectors: RetinaNet, FCOS, ATSS, GFL, YOLOX, SSD, RTMDet."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters.detector import DetectorAdapter
from mmkd_plugin.adapters.score_readers import (
    find_score_reader,
    register_score_reader,
    registered_heads,
)
from mmkd_plugin.outputs import ClassScores, Levels


class DenseDetectorAdapter(DetectorAdapter):
    """A detector that scores classes at every location of every level.

    In training MMDet calls its head as a module, so a tap on the head records its output. In
    tensor mode MMDet calls ``bbox_head.forward`` past the hooks, so :meth:`run` calls the parts.
    """

    def __init__(self, model: nn.Module) -> None:
        head: Any = getattr(model, 'bbox_head', None)
        super().__init__(head)
        reader = find_score_reader(head)
        if head is None or reader is None:
            heads = ', '.join(registered_heads('mmdet'))
            self.no_scores = f'known heads are {heads}, not {type(head).__name__}'
            return
        if self.num_classes is None:
            self.no_scores = f'{type(head).__name__} has no attribute num_classes'
            return
        self.score_taps = {'bbox_head': reader.read}
        self._activation = reader.activation

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
        if self.score_taps:
            model.bbox_head(features)  # type: ignore[operator]

    def class_scores(
        self,
        model: nn.Module,
        found: Mapping[str, list[Tensor]],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> ClassScores | None:
        head: Any = model.bbox_head
        maps = found['bbox_head']
        sigmoid = getattr(head, 'use_sigmoid_cls', True)
        activation = self._activation or ('sigmoid' if sigmoid else 'softmax')
        channels = getattr(head, 'cls_out_channels', head.num_classes)
        levels = tuple((m.shape[2], m.shape[3], m.shape[1] // channels) for m in maps)
        logits = [m.permute(0, 2, 3, 1).reshape(len(m), -1, channels) for m in maps]
        valid = None
        if data_samples:
            sizes = [sample.img_shape[:2] for sample in data_samples]
            valid = _inside(sizes, levels, _strides(head, inputs, levels), maps[0].device)
        return ClassScores(
            torch.cat(logits, dim=1),
            activation,
            background=channels > head.num_classes,
            levels=levels,
            valid=valid,
        )


@register_score_reader(
    *('mmdet.AnchorHead', 'mmdet.RetinaHead', 'mmdet.FCOSHead', 'mmdet.ATSSHead'),
    *('mmdet.GFLHead',),
    *('mmdet.SSDHead', 'mmdet.RTMDetHead', 'mmdet.RTMDetSepBNHead'),
)
def read_first_output(head: nn.Module, output: Any) -> list[Tensor]:
    """Read heads that return a list of class scores first, one tensor a level."""
    return list(output[0])


@register_score_reader('mmdet.YOLOXHead')
def read_with_objectness(head: nn.Module, output: Any) -> list[Tensor]:
    """Read YOLOX's head: the probability of a class is multiplied by that of an object."""
    return [_joint_logit(*pair) for pair in zip(output[0], output[2], strict=True)]


def _joint_logit(classes: Tensor, objectness: Tensor) -> Tensor:
    r"""Return z with :math:`\sigma(z) = \sigma(c)\,\sigma(o)`."""
    dtype = torch.promote_types(classes.dtype, torch.float32)
    log_product = F.logsigmoid(classes.to(dtype)) + F.logsigmoid(objectness.to(dtype))
    # Below 0, so that the complement of the product has a logarithm.
    log_product = log_product.clamp(max=-(torch.finfo(dtype).eps ** 2))
    return log_product - (-torch.expm1(log_product)).log()


def _strides(head: Any, inputs: Any, levels: Levels) -> list[tuple[int, int]]:
    """Return (across, down) of each level: the head's own, or else by the sizes of the maps."""
    generator = getattr(head, 'prior_generator', None)
    if generator is not None:
        return [(s, s) if isinstance(s, int) else tuple(s) for s in generator.strides]
    height, width = inputs.shape[-2:]
    return [(-(-width // columns), -(-height // rows)) for rows, columns, _ in levels]


def _inside(
    sizes: Sequence[Sequence[int]],
    levels: Levels,
    strides: Sequence[tuple[int, int]],
    device: torch.device,
) -> Tensor:
    """Mask the locations inside each image, (N, A), by their top left corner as MMDet does."""
    size = torch.tensor([tuple(one) for one in sizes], device=device)
    masks = []
    for (rows, columns, anchors), (across, down) in zip(levels, strides, strict=True):
        inside_rows = torch.arange(rows, device=device) * down < size[:, :1]
        inside_columns = torch.arange(columns, device=device) * across < size[:, 1:]
        grid = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
        masks.append(grid.expand(-1, -1, -1, anchors).flatten(1))
    return torch.cat(masks, dim=1)
