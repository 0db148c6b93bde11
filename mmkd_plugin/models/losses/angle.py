"""Angle loss: match the angles between triplets of images (Park et al., 2019)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses.functional import at_least_float32, wrong_shapes
from mmkd_plugin.models.losses.loss_module import RelationLoss, loss_module

#: Number of cosines that are computed at once: 1 MiB of float64 on a CPU, which fits its cache, and
#: 32 MiB on a GPU.
COSINES_AT_ONCE = {'cpu': 2**17, 'cuda': 2**22}

#: With at most so many numbers a point, directions are compared in place of distances.
FEW_NUMBERS = 32
#: The same for products of directions: 1 MiB, which fits a CPU's cache.
PRODUCTS_AT_ONCE = {'cpu': 2**18, 'cuda': 2**22}


@loss_module('AngleLoss', RelationLoss, delta=positive_number)
def angle_loss(student: Tensor, teacher: Tensor, delta: float = 1.0) -> Tensor:
    r"""Compare the angles of all triplets of images between two networks.

    .. math:: L = \frac{1}{N(N-1)(N-2)} \sum_{i \ne j \ne k \ne i}
              \ell_\delta(\psi^S_{ijk} - \psi^T_{ijk}), \quad
              \psi_{ijk} = \left\langle \frac{p_i - p_j}{\|p_i - p_j\|},
              \frac{p_k - p_j}{\|p_k - p_j\|} \right\rangle

    with the cosine :math:`\psi` at vertex j and the Huber loss :math:`\ell_\delta`. There is no
    angle if an end of a triplet coincides with its vertex in either network. Such a triplet counts
    as equal and receives no gradient.

    Args:
        student: Embeddings or class probabilities, (N, D_s). Receives the gradient, of first order
            only.
        teacher: The outputs of the teacher or teachers for the same images, (N, D_t). Receives no
            gradient.
        delta: The difference at which the Huber loss becomes linear.

    Returns:
        A scalar in float32 or wider, whatever the autocast: the mean over ordered triplets of
        distinct images. It is 0 for a batch of fewer than three.

    Raises:
        ValueError: If the inputs are not 2-D or differ in N, or if delta is not > 0.

    Example:
        >>> student = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0**0.5]])  # all cosines 1/2
        >>> teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # 0, sqrt(1/2), sqrt(1/2)
        >>> angle_loss(student, teacher)
        tensor(0.0560)

    Reference:
        Park et al., Relational Knowledge Distillation, CVPR 2019, eq. 8-10; Liu et al., Adaptive
        Multi-Teacher Multi-level Knowledge Distillation, 2020 (delta = 1 is from
        github.com/FLHonker/AMTML-KD-code). The usual code averages over all N*N*N triplets,
        including those with coincident indices. This function averages over the distinct ones.
    """
    positive_number('delta', delta)
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        must = 'must be (N, D) with the same N'
        raise wrong_shapes('angle_loss', must, student=student, teacher=teacher)
    student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
    if len(student) < 3:
        return (student * 0.0).sum()
    loss: Tensor = _AngleLoss.apply(student, teacher, delta)  # type: ignore[no-untyped-call]
    return loss


class _AngleLoss(torch.autograd.Function):
    """Compute value and gradient in one pass: autograd would keep N*N*N cosines several times."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, delta: float) -> Tensor:
        few = max(student.shape[1], teacher.shape[1]) <= FEW_NUMBERS
        form = _by_unit_vectors if few else _by_distances
        with torch.autocast(student.device.type, enabled=False):  # products keep their precision
            loss, gradient = form(student, teacher, delta)
        ctx.save_for_backward(gradient.to(student.dtype))
        return loss.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _by_unit_vectors(student: Tensor, teacher: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Compute the loss and its gradient to the student from the directions of all pairs.

    With few numbers a point the products of directions are cheaper than distances in float64.
    Directions are made in float64, so small triangles keep their angles.
    """
    n = len(student)
    d_student, d_teacher = _distances(student), _distances(teacher)
    no_angle = (d_student == 0) | (d_teacher == 0)
    inverse = d_student.reciprocal().masked_fill(no_angle, 0.0)
    own = _directions(student, inverse)
    others = _directions(teacher, d_teacher.reciprocal().masked_fill(no_angle, 0.0))
    loss, pull = d_student.new_zeros(()), torch.empty_like(own)
    step = max(1, PRODUCTS_AT_ONCE.get(student.device.type, 2**22) // n**2)
    for start in range(0, n, step):
        j = slice(start, start + step)
        difference = own[j] @ own[j].mT
        difference -= others[j] @ others[j].mT
        slope = difference.clamp(-delta, delta)
        loss += (slope * difference.sub_(slope, alpha=0.5)).sum()
        pull[j] = 2.0 * (slope @ own[j])  # slopes are symmetric in both ends
    pull, own = pull.double(), own.double()
    along = (pull * own).sum(dim=2, keepdim=True)
    pull = (pull - along * own) * inverse[:, :, None]  # at (vertex j, end i)
    triplets = n * (n - 1) * (n - 2)
    return loss / triplets, (pull.sum(dim=0) - pull.sum(dim=1)) / triplets


def _directions(points: Tensor, inverse: Tensor) -> Tensor:
    """Return (p_i - p_j) / d_ij at (j, i), (N, N, D), in the type of the points."""
    exact = points.double()
    return ((exact - exact[:, None]) * inverse[:, :, None]).to(points.dtype)


def _by_distances(student: Tensor, teacher: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Compute the loss and its gradient to the student from the distances of all pairs.

    Both are float64, because float32 loses the angles of small triangles.

    An angle is a function of three squared distances q, cos = (q_ij + q_kj - q_ik) / (2 d_ij d_kj),
    which is the Gram identity without the Gram matrix. The gradient is first summed for the N*N
    squared distances, then passed on to the points.
    """
    n = len(student)
    d_student, d_teacher = _distances(student), _distances(teacher)
    no_angle = (d_student == 0) | (d_teacher == 0)  # includes i = j, the diagonal
    q_student, q_teacher = d_student.square(), d_teacher.square()
    inverse_student = d_student.reciprocal().masked_fill(no_angle, 0.0)
    inverse_teacher = d_teacher.reciprocal().masked_fill(no_angle, 0.0)
    loss, gradient = q_student.new_zeros(()), torch.zeros_like(q_student)
    step = max(1, COSINES_AT_ONCE.get(student.device.type, 2**22) // n**2)
    for start in range(0, n, step):
        j = slice(start, start + step)  # tensors below are (vertices j, ends i, ends k)
        cosine, scale = _cosines(q_student, inverse_student, j)
        # Both cosines are 1 where i = k, so the difference is 0.
        difference = cosine - _cosines(q_teacher, inverse_teacher, j)[0]
        # The Huber loss is slope * (difference - slope / 2).
        slope = difference.clamp(-delta, delta)
        loss += difference.sub_(slope, alpha=0.5).mul_(slope).sum()
        # d cos / d q_ij = scale - cos / (2 q_ij), twice, because i comes first and second;
        # d cos / d q_ik = -scale.
        widen = scale.mul_(slope)
        shrink = cosine.mul_(slope).sum(dim=2) * inverse_student[j].square()
        gradient[j] += 2.0 * widen.sum(dim=2) - shrink
        gradient -= widen.sum(dim=0)
    gradient += gradient.mT.clone()
    # Centred points keep digits, because the two terms of the next line cancel less.
    points = student.double() - student.double().mean(dim=0)
    gradient = 2.0 * (gradient.sum(dim=1, keepdim=True) * points - gradient @ points)
    triplets = n * (n - 1) * (n - 2)
    return loss / triplets, gradient / triplets


def _distances(points: Tensor) -> Tensor:
    """Compute all (N, N) distances in float64.

    A distance at the rounding error of the points' own dtype is set to 0: its angles are noise.
    """
    distances = points.new_zeros(len(points), len(points), dtype=torch.float64)
    i, j = torch.triu_indices(len(points), len(points), offset=1, device=points.device)
    distances[i, j] = F.pdist(points.double())
    norms = points.double().norm(dim=1)
    noise = torch.finfo(points.dtype).eps * torch.maximum(norms[:, None], norms)
    distances.masked_fill_(distances <= noise, 0.0)
    return distances + distances.mT


def _cosines(squared: Tensor, inverse: Tensor, j: slice) -> tuple[Tensor, Tensor]:
    """Compute the cosine of every pair of ends (i, k) at vertices j, and 1 / (2 d_ij d_kj).

    Both are 0 where there is no angle.
    """
    scale = inverse[j, :, None] * (0.5 * inverse[j, None, :])
    return (squared[j, :, None] + squared[j, None, :]).sub_(squared).mul_(scale), scale
