"""Outputs as directions: every image's over its own L2 norm."""

import torch
from torch import Tensor

NO_DIRECTION = 1e-12  # a norm of at most this counts as zero; F.normalize has the same number


def inverse_norm(x: Tensor) -> Tensor:
    """1 / L2 norm of each image's whole output, (N, 1, ...); 0 where the norm is zero, and then without gradient.

    F.normalize would multiply the gradient of such an image by 1e12. NaN stays NaN.
    """
    # Map by map, then over the channels: norms sum naively in PyTorch, and so lose less, at the same cost and without a copy.
    norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) if x.ndim == 4 else x
    norm = torch.linalg.vector_norm(norm, dim=1, keepdim=True)
    return norm.masked_fill(norm <= NO_DIRECTION, torch.inf).reciprocal()


def unit_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """The difference of the directions, student's - teacher's, of one shape (N, C, H, W) or (N, C)."""
    direction = student * inverse_norm(student)
    return direction.sub_(teacher * inverse_norm(teacher))
