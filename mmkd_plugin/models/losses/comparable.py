"""Outputs of two networks for the same images, made comparable: one dtype of at least float32, and one size of map."""

import torch
from torch import Tensor
from torch.nn import functional as F


def comparable(loss: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Check, detach the teacher, widen and pool, in that order; what needs none of it is not copied.

    Args:
        loss: Who asks: begins the error.
        student: (N, C, H, W) or (N, C).
        teacher: The same N and C; H and W may differ.

    Raises:
        ValueError: If the shapes differ in more than H and W; nothing is ever broadcast.
    """
    maps = student.ndim == teacher.ndim == 4
    same = (
        student.shape[:2] == teacher.shape[:2]
        if maps
        else student.ndim == 2 and student.shape == teacher.shape
    )
    if not same:
        raise ValueError(
            f'{loss} compares (N, C, H, W) with (N, C, H, W), or (N, C) with (N, C), of the same N and C: '
            f'got student {tuple(student.shape)}, teacher {tuple(teacher.shape)}'
        )
    return same_size(*widened(student, teacher))


def widened(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common dtype, float32 if that is narrower, whatever the autocast; the teacher without gradient."""
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool either map to the smaller height and width of the two; only maps, (N, C, H, W), can differ in size."""
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return _pooled(student, size), _pooled(teacher, size)


def _pooled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)
