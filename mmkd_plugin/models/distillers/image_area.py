"""The area of the image that a batch shows: networks that are compared see the same one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.errors import ConfigError

#: The remedy where teachers are padded in another way.
SAME_PADDING = 'Give the teacher a data_preprocessor with the padding of the student.'


def in_area_of_run(other: Mapping[str, Any], batch: Mapping[str, Any], raw: Any) -> Tensor:
    """Return a network's images in the area of the run's: maps of both show the same area.

    Hosts pad at the right and at the bottom. Padding that the run has not is cut off, padding that
    it has is added. Images that a preprocessor resized stay as they are: both show the whole image.

    Args:
        other: The batch under the network's own preprocessing.
        batch: The batch under the run's.
        raw: The raw batch of both.

    Raises:
        ConfigError: If the images were resized and one of the batches is padded.
    """
    own, run = other['inputs'], batch['inputs']
    if not isinstance(own, Tensor) or own.ndim != 4 or own.shape[2:] == run.shape[2:]:
        return own
    height, width = _largest_image(batch, raw) or run.shape[2:]
    rest = [own[:, :, height:].flatten(2), own[:, :, :height, width:].flatten(2)]
    values = torch.cat(rest, dim=2)
    covers = own.shape[2] >= height and own.shape[3] >= width
    constant = not values.numel() or bool((values == values[:1, :, :1]).all())
    if covers and constant:
        rows, columns = run.shape[2:]
        kept = own[:, :, :rows, :columns]
        padded = own.new_zeros(*own.shape[:2], rows, columns)
        if values.numel():
            padded += values[:1, :, :1, None]
        padded[:, :, : kept.shape[2], : kept.shape[3]] = kept
        return padded
    if tuple(run.shape[2:]) == (height, width):
        return own  # resized: the whole image in both
    raise ConfigError(
        'teachers',
        f'images must show the same area as those of the run, {tuple(run.shape[2:])}, of which '
        f'{(height, width)} is no padding',
        SAME_PADDING,
        found=tuple(own.shape[2:]),
    )


def _largest_image(batch: Mapping[str, Any], raw: Any) -> tuple[int, int] | None:
    """Return the largest (height, width) of the images without padding; None if unknown."""
    shapes = [getattr(one, 'img_shape', None) for one in batch.get('data_samples') or ()]
    sizes = [tuple(shape[:2]) for shape in shapes if shape is not None]
    images = raw.get('inputs') if isinstance(raw, Mapping) else None
    if not sizes and isinstance(images, (list, tuple, Tensor)):
        sizes = [tuple(one.shape[-2:]) for one in images if isinstance(one, Tensor)]
    return (max(h for h, _ in sizes), max(w for _, w in sizes)) if sizes else None
