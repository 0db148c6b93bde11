"""MMDet's one-stage detectors: RetinaNet, FCOS, ATSS, GFL, YOLOX, SSD, RTMDet."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters.detector import DetectorHost
from mmkd_plugin.outputs import ClassScores, Knowledge

#: Heads whose forward gives, first of all, a list of class scores (N, anchors * C, H, W), one a level, before their activation.
_HEADS = (
    'RetinaHead',
    'FCOSHead',
    'ATSSHead',
    'GFLHead',
    'YOLOXHead',
    'SSDHead',
    'RTMDetHead',
    'RTMDetSepBNHead',
)


class DenseDetectorHost(DetectorHost):
    """A detector that gives class scores at every location of every level.

    In training its head is called as a module, so a tap on the head gets the lists per level; in tensor mode MMDet calls
    ``bbox_head.forward`` past the hooks, so :meth:`run` calls the parts itself.
    """

    def __init__(self, model: nn.Module) -> None:
        head: Any = getattr(model, 'bbox_head', None)
        super().__init__(head)
        self._with_objectness = False
        if head is None or not _known(head):
            self.why_no_scores = f'of a {type(head).__name__} the taps alone are known; class scores of {", ".join(_HEADS)}'
            return
        levels = range(len(head.prior_generator.strides))
        self.score_taps = tuple(f'bbox_head[0][{level}]' for level in levels)
        if hasattr(
            head, 'multi_level_conv_obj'
        ):  # YOLOX: a class counts where there is an object at all
            self._with_objectness = True
            self.score_taps += tuple(f'bbox_head[2][{level}]' for level in levels)

    def run(self, model: nn.Module, inputs: Any, scores: bool, rois: Sequence[Tensor] = ()) -> None:
        features = model.extract_feat(inputs)  # type: ignore[operator]
        if self.score_taps:
            model.bbox_head(features)  # type: ignore[operator]

    def knowledge(
        self,
        model: nn.Module,
        features: Mapping[str, Tensor],
        inputs: Any,
        data_samples: Sequence[Any] | None = None,
    ) -> Knowledge:
        if not self.score_taps or not features.keys() >= set(self.score_taps):
            return Knowledge(features=features)
        head: Any = model.bbox_head
        maps = [features[tap] for tap in self.score_taps]
        if self._with_objectness:
            count = len(maps) // 2
            maps = [_joint(*pair) for pair in zip(maps[:count], maps[count:], strict=True)]
        channels = head.cls_out_channels
        levels = tuple((seen.shape[2], seen.shape[3], seen.shape[1] // channels) for seen in maps)
        logits = torch.cat(
            [seen.permute(0, 2, 3, 1).reshape(len(seen), -1, channels) for seen in maps], dim=1
        )
        activation = 'sigmoid' if head.use_sigmoid_cls else 'softmax'
        valid = None
        if data_samples:
            sizes = [sample.img_shape[:2] for sample in data_samples]
            valid = _inside(sizes, levels, head.prior_generator.strides, logits.device)
        return Knowledge(ClassScores(logits, activation, levels, valid=valid), features)


def _known(head: nn.Module) -> bool:
    """Whether the head's outputs are those of a listed class: a subclass may have changed everything but its forward."""
    module: Any = sys.modules.get('mmdet.models.dense_heads')
    known = [getattr(module, name) for name in _HEADS if hasattr(module, name)]

    def made_by(name: str) -> bool:
        own = getattr(type(head), name, None)
        return any(own is getattr(one, name, None) for one in known)

    return made_by('forward') and made_by('forward_single')


def _joint(classes: Tensor, objectness: Tensor) -> Tensor:
    r"""The logit of the product of two probabilities: :math:`\sigma(z) = \sigma(c)\,\sigma(o)`."""
    wide = torch.promote_types(classes.dtype, torch.float32)
    log_product = F.logsigmoid(classes.to(wide)) + F.logsigmoid(objectness.to(wide))
    log_product = log_product.clamp(
        max=-(torch.finfo(wide).eps ** 2)
    )  # below 0, so that its complement has a logarithm
    return log_product - (-torch.expm1(log_product)).log()


def _inside(
    sizes: Sequence[Sequence[int]],
    levels: Sequence[tuple[int, int, int]],
    strides: Sequence[tuple[int, int]],
    device: torch.device,
) -> Tensor:
    """Which places lie in the image, (N, A): those whose corner at the top left does, as MMDet's own anchors count."""
    size = torch.tensor([tuple(one) for one in sizes], device=device)
    masks = []
    for (rows, columns, anchors), stride in zip(levels, strides, strict=True):
        across, down = (stride, stride) if isinstance(stride, int) else stride
        inside_rows = torch.arange(rows, device=device) * down < size[:, :1]
        inside_columns = torch.arange(columns, device=device) * across < size[:, 1:]
        grid = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
        masks.append(grid.expand(-1, -1, -1, anchors).flatten(1))
    return torch.cat(masks, dim=1)
