"""Views in batches: the raw batch of a view, and the area that its images show."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.views.pipelines import VIEWS
from mmkd_plugin.views.settings import DATASET_LINE

#: Batch augmentations of MMPretrain that draw alike in images of all sizes, or show it in labels.
_KNOWN_AUGMENTS = ('Mixup', 'CutMix', 'ResizeMix')
Sizes = Sequence[tuple[int, int]]


def view_of(data: Any, name: str, key: str, loader: str = 'train_dataloader') -> Any:
    """Return the raw batch of a view.

    Args:
        data: A raw batch of the loader.
        name: Name of the view, which is that of its teacher.
        key: The config key of the teacher.
        loader: Name of the loader, for messages.

    Raises:
        ConfigError: If the batch has no such view; with the line to add.
    """
    views = data.get(VIEWS) if isinstance(data, Mapping) else None
    if isinstance(views, Mapping) and name in views:
        return views[name]
    fix = DATASET_LINE
    if loader != 'train_dataloader':
        fix = (
            f"Write {loader}.dataset=dict(type='mmkd_plugin.MultiViewDataset', dataset=…, "
            f'views=dict({name}=dict(pipeline=[…]))), with transforms that draw nothing.'
        )
    found = [*views] if isinstance(views, Mapping) else None
    raise ConfigError(f'{key}.view', f'is not in the batches of {loader}', fix, found=found)


def without_views(data: Any) -> Any:
    """Return the raw batch of the student alone."""
    if isinstance(data, Mapping) and VIEWS in data:
        return {name: value for name, value in data.items() if name != VIEWS}
    return data


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize preprocessed images (N, C, H, W) bilinearly; smaller ones are averaged.

    Example:
        >>> resized(torch.ones(1, 3, 8, 8), (4, 6)).shape
        torch.Size([1, 3, 4, 6])
    """
    if tuple(images.shape[2:]) == size:
        return images
    return nn.functional.interpolate(
        images, size, mode='bilinear', align_corners=False, antialias=True
    )


def require_no_batch_resize(augments: Any, key: str) -> None:
    """Refuse augmentations of whole batches that a view cannot follow.

    Args:
        augments: ``batch_augments`` of the student's preprocessor.
        key: The config key of the teacher.

    Raises:
        ConfigError: With their names.
    """
    inner = getattr(augments, 'augments', augments)  # MMPretrain's RandomBatchAugment
    found = inner if isinstance(inner, (list, tuple, nn.ModuleList)) else [inner]
    names = [type(one).__name__ for one in found if one is not None]
    if names := [name for name in names if name not in _KNOWN_AUGMENTS]:
        raise ConfigError(
            f'{key}.view',
            'must not be combined with batch augmentations that resize or pad the batch',
            'Resize in the pipelines instead, or leave the view out.',
            found=', '.join(names),
        )


def in_area_of_student(
    images: Tensor, sizes: Sizes, student: Tensor, own_sizes: Sizes, pad_value: float, key: str
) -> Tensor:
    """Return the images of a view in the area that the student's batch shows.

    Hosts pad at the right and at the bottom. A view of twice the resolution is padded to twice the
    height and width of the student's batch, so that maps of both show the same area.

    Args:
        images: The preprocessed batch of the view, (N, C, H, W).
        sizes: (height, width) of its images without padding.
        student: The preprocessed batch of the student, (N, C, H, W).
        own_sizes: (height, width) of its images without padding.
        pad_value: Value of the padding.
        key: The config key of the teacher.

    Raises:
        ConfigError: If images of a padded batch have different resolutions beside the student's.
    """
    padded = tuple(student.shape[2:])
    whole = tuple(images.shape[2:])
    if all(one == padded for one in own_sizes) and all(one == whole for one in sizes):
        return images  # each image fills its batch
    factors = []
    for axis in (0, 1):  # the longest side has the least error of rounding
        longest = max(range(len(sizes)), key=lambda n: own_sizes[n][axis])
        factors.append(sizes[longest][axis] / own_sizes[longest][axis])
    for own, other in zip(own_sizes, sizes, strict=True):
        for factor, one, two in zip(factors, own, other, strict=True):
            if abs(two - factor * one) > 1 + factor:
                raise ConfigError(
                    f'{key}.view.pipeline',
                    'must change the resolution of all images by one factor where batches are '
                    f"padded: beside the student's {list(own_sizes)}",
                    "Resize by the same rule as in the student's pipeline, with a scale that is a "
                    'multiple of its scale in height and width.',
                    found=list(sizes),
                )
    height, width = (round(one * factor) for one, factor in zip(padded, factors, strict=True))
    below, right = height - images.shape[2], width - images.shape[3]
    return nn.functional.pad(images, (0, right, 0, below), value=pad_value)  # below 0 it cuts


def sizes_of(raw: Any) -> list[tuple[int, int]]:
    """Return (height, width) of each image of a raw batch."""
    images = raw['inputs']
    if isinstance(images, Tensor) and images.ndim == 3:
        images = images[None]
    return [(int(one.shape[-2]), int(one.shape[-1])) for one in images]


def pad_value_of(preprocessor: nn.Module) -> float:
    """Return the value with which a preprocessor of the hosts pads; 0 by default."""
    value = getattr(preprocessor, 'pad_value', 0)
    value = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    return float(value) if isinstance(value, (int, float)) else 0.0
