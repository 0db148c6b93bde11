"""Taps that a user would name."""

import math
from typing import Any

from torch import nn

from mmkd_plugin.adapters.inspect_taps import tap_points
from mmkd_plugin.errors import ConfigError


def tap_of(model: Any) -> str:
    """Return the tap that a user would name: the last map of the backbone, or the first of a neck.

    Args:
        model: The network.
    """
    if hasattr(model, 'rpn_head') or hasattr(model, 'bbox_head') or hasattr(model, 'mask_head'):
        part = 'neck[0]' if getattr(model, 'neck', None) is not None else 'backbone[-1]'
    else:
        part = 'backbone[-1]'
    if hasattr(model, part.partition('[')[0]):
        return part
    inner = [name for name in ('image_encoder', 'model') if hasattr(model, name)]
    return inner[0] if inner else part


def map_tap_of(model: nn.Module, tap: str, size: tuple[int, int]) -> str:
    """Return the tap of the last map where ``tap`` is a vector: the last stage or block.

    Args:
        model: The network.
        tap: The usual tap.
        size: (height, width) of the images.
    """
    try:
        points = tap_points(model, (3, *size))
    except ConfigError:
        return tap
    shapes = {point.tap: point.shape for point in points if not point.obstacle}
    own = shapes.get(tap) or next(
        (s for t, s in reversed(shapes.items()) if t.partition('[')[0] == tap.partition('[')[0]), ()
    )
    if len(own) != 2:
        return tap
    blocks = [
        point.tap
        for point in points
        if not point.obstacle
        and point.tap.startswith('backbone.')
        and point.tap.count('.') <= 2
        and math.prod(point.shape[2:] if len(point.shape) == 4 else point.shape[1:2]) > 1
        and len(point.shape) in (3, 4)
    ]
    return blocks[-1] if blocks else tap
