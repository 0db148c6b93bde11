"""Checks of tapped tensors, for methods that compare them."""

import logging

from mmengine.logging import print_log
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.errors import ConfigError


def log_strides(student: Probe, student_tap: str, teacher: Probe, teacher_tap: str) -> None:
    """Log a warning if two maps that are compared have different strides.

    Args:
        student: Probe of the student.
        student_tap: Tap of the student.
        teacher: Probe of the teacher.
        teacher_tap: Tap of the teacher.
    """
    own, other = student.stride(student_tap), teacher.stride(teacher_tap)
    if own is not None and other is not None and own != other:
        print_log(
            f'{student.key} {student_tap!r} has stride {own:g} and {teacher.key} {teacher_tap!r} '
            f'has stride {other:g}: one map is resized to the other. Levels of two networks '
            'correspond by stride, not by index.',
            logger='current',
            level=logging.WARNING,
        )


def require_row_per_image(key: str, probe: Probe, tap: str) -> None:
    """Refuse a tap whose rows are no images, such as windows or regions.

    Raises:
        ConfigError: If the number of rows is not that of the images; about ``key``.
    """
    rows = probe.feature(tap).shape[0]
    if probe.size is not None and rows != probe.images:
        raise ConfigError(
            key,
            f'must tap one row an image, but {tap!r} returns {rows} rows for {probe.images} images',
            'Tap a module whose first axis is the image.',
            found=tap,
        )


def check_channels(key: str, stated: int | None, found: Tensor) -> int:
    """Return the channels of a map (N, C, H, W) or of features (N, C).

    Raises:
        ConfigError: If the config states another number, or the tensor has neither form.
    """
    if found.ndim not in (2, 4):
        shape = tuple(found.shape)
        raise ConfigError(key, 'needs a map (N, C, H, W) or features (N, C)', found=shape)
    if stated is not None and stated != found.shape[1]:
        raise ConfigError(
            key, f'must be {found.shape[1]}, the channels of the tapped tensor', found=stated
        )
    return int(found.shape[1])
