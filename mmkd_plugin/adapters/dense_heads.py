"""Score readers of MMDet's dense heads: what their training forward returns, and in which unit."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters.head_output import HeadOutput
from mmkd_plugin.adapters.score_readers import register_score_reader
from mmkd_plugin.anchors import DeltaCoder

#: A box has at least 16 thousandths of the width of its anchor: the default of MMDet's ``decode``.
_LOG_LIMIT = abs(math.log(16 / 1000))


@register_score_reader(
    *('mmdet.AnchorHead', 'mmdet.RetinaHead', 'mmdet.RetinaSepBNHead', 'mmdet.FSAFHead'),
    *('mmdet.ATSSHead', 'mmdet.DDODHead', 'mmdet.SSDHead', 'mmdet.YOLOFHead', 'mmdet.YOLACTHead'),
    'mmdet.RPNHead',
)
def read_anchor_head(head: Any, output: Any) -> HeadOutput:
    """Read heads that return logits and then deltas of anchors.

    YOLOF's logits include the objectness already.
    """
    coder = getattr(head, 'bbox_coder', None)
    if coder is None:
        return HeadOutput(output[0])
    return HeadOutput(output[0], output[1], 'delta', _coding(coder), _delta_coder(coder))


@register_score_reader(
    *('mmdet.FoveaHead', 'mmdet.RepPointsHead', 'mmdet.SABLRetinaHead', 'mmdet.AnchorFreeHead'),
    *('mmdet.GuidedAnchorHead', 'mmdet.GARetinaHead', 'mmdet.GARPNHead'),
)
def read_first_output(head: nn.Module, output: Any) -> list[Tensor]:
    """Read heads that return logits first, and boxes that depend on other outputs."""
    return list(output[0])


@register_score_reader('mmdet.FCOSHead', 'mmdet.CondInstBboxHead')
def read_fcos(head: Any, output: Any) -> HeadOutput:
    """Read heads that return logits and distances, which in training may be in strides."""
    units = head.strides if head.norm_on_bbox else [1] * len(output[1])
    return HeadOutput(output[0], _scaled(output[1], units), 'distance')


@register_score_reader('mmdet.CenterNetUpdateHead')
def read_distances_in_strides(head: Any, output: Any) -> HeadOutput:
    """Read heads that return logits and distances in strides."""
    return HeadOutput(output[0], _scaled(output[1], head.strides), 'distance')


@register_score_reader(
    *('mmdet.RTMDetHead', 'mmdet.RTMDetSepBNHead'),
    *('mmdet.RTMDetInsHead', 'mmdet.RTMDetInsSepBNHead'),
)
def read_distances(head: nn.Module, output: Any) -> HeadOutput:
    """Read heads that return logits and distances in pixels."""
    return HeadOutput(output[0], output[1], 'distance')


@register_score_reader('mmdet.VFNetHead')
def read_vfnet(head: nn.Module, output: Any) -> HeadOutput:
    """Read VFNet's head: logits, distances in pixels, and the same distances refined."""
    return HeadOutput(output[0], output[2], 'distance')


@register_score_reader('mmdet.GFLHead')
def read_gfl(head: nn.Module, output: Any) -> HeadOutput:
    """Read heads that return logits and distributions of distances in strides."""
    return HeadOutput(output[0], output[1], 'distribution')


@register_score_reader('mmdet.AutoAssignHead')
def read_autoassign(head: nn.Module, output: Any) -> HeadOutput:
    """Read AutoAssign's head: it is trained on the product of class and objectness."""
    return HeadOutput(_joint_logits(output[0], output[2]), output[1], 'distance')


@register_score_reader('mmdet.YOLOXHead')
def read_yolox(head: nn.Module, output: Any) -> HeadOutput:
    """Read YOLOX's head: the probability of a class is multiplied by that of an object."""
    coding = 'centre and logarithm of the size, in strides'
    scores = _joint_logits(output[0], output[2])
    # The anchor is one cell around the point.
    return HeadOutput(scores, output[1], 'delta', coding, DeltaCoder())


@register_score_reader('mmdet.YOLOV3Head')
def read_yolov3(head: Any, output: Any) -> HeadOutput:
    """Read YOLOv3's head: each anchor has four deltas, the objectness and the classes in turn."""
    anchors = [one.unflatten(1, (-1, head.num_attrib)) for one in output[0]]
    scores = [_joint_logit(one[:, :, 5:], one[:, :, 4:5]).flatten(1, 2) for one in anchors]
    boxes = [one[:, :, :4].flatten(1, 2) for one in anchors]
    return HeadOutput(scores, boxes, 'delta', _coding(head.bbox_coder))


@register_score_reader('mmdet.TOODHead', 'mmdet.CenterNetHead', activation='sigmoid')
def read_probabilities(head: nn.Module, output: Any) -> list[Tensor]:
    """Read heads that return probabilities first."""
    return [_logit(one) for one in output[0]]


@register_score_reader('mmdet.CornerHead', 'mmdet.CentripetalHead', activation='sigmoid')
def read_corners(head: nn.Module, output: Any) -> list[Tensor]:
    """Read heads that score top left corners and bottom right corners: levels of their own."""
    return [*output[0], *output[1]]


@register_score_reader('mmdet.SOLOHead', 'mmdet.SOLOV2Head', activation='sigmoid')
def read_grid(head: nn.Module, output: Any) -> list[Tensor]:
    """Read mask heads that return the logits of a grid second."""
    return list(output[1])


@register_score_reader(
    'mmdet.DecoupledSOLOHead', 'mmdet.DecoupledSOLOLightHead', activation='sigmoid'
)
def read_decoupled_grid(head: nn.Module, output: Any) -> list[Tensor]:
    """Read mask heads that return the logits of a grid third."""
    return list(output[2])


def _coding(coder: object) -> str:
    """Show a box coder with what decides the meaning of a delta, but not how decoding is cut."""
    settings = ', '.join(
        f'{name}={value}'
        for name, value in sorted(vars(coder).items())
        if not any(word in name for word in ('clip', 'clamp', 'box_type'))
    )
    return f'{type(coder).__name__}({settings})'


def _delta_coder(coder: Any) -> DeltaCoder | None:
    """Return how MMDet decodes deltas; None for another coder, whose deltas mean something else."""
    if type(coder).__name__ != 'DeltaXYWHBBoxCoder':
        return None
    return DeltaCoder(
        tuple(map(float, coder.means)),
        tuple(map(float, coder.stds)),
        log_limit=_LOG_LIMIT,
        centre_limit=float(coder.ctr_clamp) if coder.add_ctr_clamp else None,
    )


def _scaled(maps: Sequence[Tensor], units: Sequence[Any]) -> list[Tensor]:
    """Multiply maps of (left, top, right, bottom), by level."""
    scaled = []
    for one, unit in zip(maps, units, strict=True):
        across, down = unit if isinstance(unit, (list, tuple)) else (unit, unit)
        scaled.append(one * one.new_tensor([across, down, across, down])[:, None, None])
    return scaled


def _joint_logits(classes: Sequence[Tensor], objectness: Sequence[Tensor]) -> list[Tensor]:
    return [_joint_logit(*pair) for pair in zip(classes, objectness, strict=True)]


def _joint_logit(classes: Tensor, objectness: Tensor) -> Tensor:
    r"""Return z with :math:`\sigma(z) = \sigma(c)\,\sigma(o)`."""
    dtype = torch.promote_types(classes.dtype, torch.float32)
    log_product = F.logsigmoid(classes.to(dtype)) + F.logsigmoid(objectness.to(dtype))
    # Below 0, so that the complement of the product has a logarithm.
    log_product = log_product.clamp(max=-(torch.finfo(dtype).eps ** 2))
    return log_product - (-torch.expm1(log_product)).log()


def _logit(probability: Tensor) -> Tensor:
    """Return the logits of probabilities; beside 0 and 1 they stay finite, as their gradients."""
    dtype = torch.promote_types(probability.dtype, torch.float32)
    eps = torch.finfo(dtype).eps
    inner = probability.to(dtype).clamp(eps**2, 1 - eps)
    return inner.log() - (-inner).log1p()
