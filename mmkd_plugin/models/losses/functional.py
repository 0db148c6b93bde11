"""Helpers of several losses: one dtype, one spatial size, unit norms, means, rows of all ranks."""

from typing import overload

import torch
from mmengine import dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

#: A norm of at most this counts as zero. ``F.normalize`` has the same number.
EPS = 1e-12


@overload
def at_least_float32(x: Tensor, /) -> Tensor: ...


@overload
def at_least_float32(x: Tensor, y: Tensor, /, *more: Tensor) -> tuple[Tensor, ...]: ...


def at_least_float32(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Convert tensors to their common dtype, or to float32 if that is narrower.

    Losses compute in float32 or wider, whatever the autocast. A tensor of that dtype is not copied.

    Args:
        *tensors: One or more tensors.

    Returns:
        One tensor for one, otherwise a tuple, as ``torch.atleast_1d``.

    Example:
        >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
        >>> half, double = torch.ones(2).half(), torch.ones(2).double()
        >>> [x.dtype for x in at_least_float32(half, double)]
        [torch.float64, torch.float64]
    """
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    wide = tuple(x.to(dtype) for x in tensors)
    return wide if len(wide) > 1 else wide[0]


def align(function: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Check the shapes, detach the teacher, widen to float32 and pool to one size, in that order.

    A tensor that needs no change is not copied.

    Args:
        function: The name of the loss, which begins the error.
        student: (N, C, H, W) or (N, C).
        teacher: The same N and C; H and W may differ.

    Returns:
        Both tensors, of one shape and one dtype.

    Raises:
        ValueError: If the shapes differ in more than H and W. Nothing is broadcast.

    Example:
        >>> student, teacher = align('my_loss', torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8))
        >>> student.shape == teacher.shape == (2, 3, 4, 4)
        True
    """
    if student.ndim == teacher.ndim == 4:
        same = student.shape[:2] == teacher.shape[:2]
    else:
        same = student.ndim == 2 and student.shape == teacher.shape
    if not same:
        must = 'must both be (N, C, H, W), or both (N, C), with the same N and C'
        raise wrong_shapes(function, must, student=student, teacher=teacher)
    return match_spatial_size(*at_least_float32(student, teacher.detach()))


def match_spatial_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool two maps to the smaller height and the smaller width of the two.

    Args:
        student: (N, C, H, W). Tensors of one shape may have any number of dimensions.
        teacher: The same; all sizes may differ.

    Returns:
        Both tensors; one that has the common size already is not copied.

    Example:
        >>> tall, wide = torch.tensor([[[[1.0], [3.0]]]]), torch.tensor([[[[4.0, 8.0]]]])
        >>> [x.item() for x in match_spatial_size(tall, wide)]
        [2.0, 6.0]
    """
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return pool_to(student, size), pool_to(teacher, size)


def pool_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Pool a map to a size by averages, also where torch must be deterministic on a GPU.

    There the gradient of adaptive pooling is an error.

    Args:
        x: (N, C, H, W).
        size: (H', W'), not larger.

    Returns:
        (N, C, H', W'): the map itself if it has the size.

    Example:
        >>> pool_to(torch.tensor([[[[1.0, 3.0, 8.0]]]]), (1, 2))
        tensor([[[[2.0000, 5.5000]]]])
    """
    (height, width), (rows, columns) = x.shape[2:], size
    if (height, width) == (rows, columns):
        return x
    if height % rows == 0 and width % columns == 0:
        return F.avg_pool2d(x, (height // rows, width // columns))
    if not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(x, size)
    with torch.autocast(x.device.type, enabled=False):  # sums stay in the precision of the map
        down, across = _averages(height, rows).to(x), _averages(width, columns).to(x)
        return down @ x @ across.t()


def _averages(length: int, parts: int) -> Tensor:
    """Return the matrix (parts, length) of adaptive average pooling."""
    ends = torch.arange(parts + 1) * length
    first, last = ends[:-1] // parts, -(-ends[1:] // parts)
    places = torch.arange(length)
    inside = (places >= first[:, None]) & (places < last[:, None])
    return inside / (last - first)[:, None]


def inverse_norm(x: Tensor) -> Tensor:
    """Compute 1 / L2 norm of each image's whole output; 0 without gradient if the norm is zero.

    ``F.normalize`` would multiply the gradient of an image of zero norm by 1e12.

    Args:
        x: (N, C, H, W) or (N, C).

    Returns:
        (N, 1, 1, 1) or (N, 1). NaN stays NaN.

    Example:
        >>> inverse_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.2000],
                [0.0000]])
    """
    # PyTorch sums norms naively, so sums of H*W, then of C elements lose less than one sum.
    norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) if x.ndim == 4 else x
    norm = torch.linalg.vector_norm(norm, dim=1, keepdim=True)
    return norm.masked_fill(norm <= EPS, torch.inf).reciprocal()


def unit_difference(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Subtract the teacher's outputs from the student's, each image's divided by its L2 norm.

    .. math:: \frac{s_n}{\|s_n\|_2} - \frac{t_n}{\|t_n\|_2}

    Args:
        student: s, (N, C, H, W) or (N, C).
        teacher: t, of the same shape.

    Returns:
        A tensor of the same shape.

    Example:
        >>> unit_difference(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -2.0]]))
        tensor([[0.6000, 1.8000]])
    """
    direction = student * inverse_norm(student)
    return direction.sub_(teacher * inverse_norm(teacher))


def partial_squares_(difference: Tensor, target: Tensor) -> Tensor:
    r"""Square errors in place, with 0 for those that no ReLU lets through.

    .. math:: d_p(s, t) = 0 \text{ if } s \le t \le 0, \quad (s - t)^2 \text{ otherwise}

    Args:
        difference: s - t, which is overwritten. NaN stays NaN.
        target: t, or any tensor with the signs of t, of the same shape.

    Returns:
        The squares, of the same shape.

    Example:
        >>> student, target = torch.tensor([-3.0, -1.0, 2.0]), torch.tensor([-1.0, -2.0, 1.0])
        >>> partial_squares_(student - target, target)
        tensor([0., 1., 1.])

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019.
    """
    both_off = (difference <= 0) & (target <= 0)
    return difference.masked_fill_(both_off, 0.0).square()


def weighted_mean(function: str, rows: Tensor, weights: Tensor | None) -> Tensor:
    """Reduce the losses of rows to a scalar: their mean, or their weighted sum.

    Args:
        function: The name of the loss, which begins the error.
        rows: One loss for each row, (N,).
        weights: The factor of each row, (N,); None for 1/N each. They are not normalised, so their
            sum is the caller's choice. They receive no gradient.

    Returns:
        A scalar; 0 for an empty batch with weights.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> rows = torch.tensor([1.0, 3.0])
        >>> weighted_mean('my_loss', rows, None)
        tensor(2.)
        >>> weighted_mean('my_loss', rows, torch.tensor([0.5, 2.0]))
        tensor(6.5000)
    """
    if weights is None:
        return rows.sum() / len(rows)
    if weights.shape != rows.shape:
        raise wrong_shapes(function, f'must be ({len(rows)},)', weights=weights)
    return (weights.detach().to(rows.dtype) * rows).sum()


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, with gradient.

    The backward pass sums the gradients of all ranks for a row. If each rank computes the same loss
    of all rows, DDP's mean over ranks equals the gradient of one process with the whole batch.

    Args:
        rows: (N, D); every rank must have the same N.

    Returns:
        (R*N, D) in the order of the R ranks; ``rows`` itself in a single process.

    Example:
        >>> gather_rows(torch.ones(4, 2)).shape
        torch.Size([4, 2])
    """
    if dist.get_world_size() == 1:
        return rows
    return torch.cat(list(all_gather(rows.contiguous())))


def wrong_shapes(function: str, must: str, /, **tensors: Tensor) -> ValueError:
    """Make the error about tensors whose shapes a function cannot take.

    Args:
        function: The name of the function, which begins the message.
        must: The shapes that it takes, as the end of a sentence about the tensors.
        **tensors: The tensors that were found, by name.

    Returns:
        The error, for the caller to raise.

    Example:
        >>> raise wrong_shapes('my_loss', 'must be (N, D)', student=torch.ones(4))
        Traceback (most recent call last):
        ValueError: my_loss: student must be (N, D) (found student (4,)).
    """
    names = list(tensors)
    subject = ', '.join(names[:-1]) + ' and ' * (len(names) > 1) + names[-1]
    found = ', '.join(f'{name} {tuple(x.shape)}' for name, x in tensors.items())
    return ValueError(f'{function}: {subject} {must} (found {found}).')
