"""Angle-wise relational distillation: keep the angles that the teacher sees between triplets of images."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number, positive_number
from mmkd_plugin.registry import MODELS

# How many cosines are computed at once. A GPU wants many (32 MiB); on a CPU PyTorch shares out operations of 2**15 elements, and
# at this size the threads wait for one another longer than they compute, much longer on a busy machine.
COSINES_AT_ONCE = {'cpu': 2**15 - 1, 'cuda': 2**22}


def angle_loss(student: Tensor, teacher: Tensor, delta: float = 1.0) -> Tensor:
    r"""Compare the angles of all triplets of images, as the student and as the teacher see them.

    .. math:: L = \frac{1}{N(N-1)(N-2)} \sum_{i \ne j \ne k \ne i} \ell_\delta(\psi^S_{ijk} - \psi^T_{ijk}), \quad
              \psi_{ijk} = \left\langle \frac{p_i - p_j}{\|p_i - p_j\|}, \frac{p_k - p_j}{\|p_k - p_j\|} \right\rangle

    where :math:`\psi` is the cosine at vertex j and :math:`\ell_\delta` the Huber loss. Where either network puts an end
    of a triplet onto its vertex, there is no angle: the triplet counts as equal, and has no gradient.

    Args:
        student: Embeddings or class probabilities, (N, D_s). Receives the gradient (of first order only).
        teacher: The same images seen by the teacher(s), (N, D_t); D_t may differ from D_s. Receives none.
        delta: Where the Huber loss turns from squared to linear.

    Returns:
        A scalar in float32 or wider, whatever the autocast: the mean over ordered triplets of distinct images; 0 for a
        batch of fewer than three.

    Raises:
        ValueError: If the inputs are not 2-D or differ in N, or delta is not > 0.

    Source: Park et al., Relational Knowledge Distillation, CVPR 2019, eq. 8-10; Liu et al., Adaptive Multi-Teacher
    Multi-level Knowledge Distillation, 2020 (delta = 1 is from github.com/FLHonker/AMTML-KD-code). The usual code averages
    over all N*N*N triplets, those with coincident indices included; this function over the distinct ones.
    """
    positive_number('delta', delta)
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            'angle_loss compares (N, D) with (N, D): '
            f'got student {tuple(student.shape)}, teacher {tuple(teacher.shape)}'
        )
    student, teacher = _at_least_float32(student), _at_least_float32(teacher.detach())
    if len(student) < 3:
        return (student * 0.0).sum()
    loss: Tensor = _AngleLoss.apply(student, teacher, delta)  # type: ignore[no-untyped-call]
    return loss


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _AngleLoss(torch.autograd.Function):
    """Value and gradient in one pass: autograd would keep N*N*N cosines for its own, several times over."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, delta: float) -> Tensor:
        loss, gradient = _value_and_gradient(student, teacher, delta)
        ctx.save_for_backward(gradient.to(student.dtype))
        return loss.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _value_and_gradient(student: Tensor, teacher: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient to the student, in float64: small triangles lose their angles in float32.

    An angle is a function of three squared distances q, cos = (q_ij + q_kj - q_ik) / (2 d_ij d_kj), which is the Gram
    identity without the Gram matrix. So the gradient is gathered for the N*N squared distances, then taken to the points.
    """
    n = len(student)
    d_student, d_teacher = _distances(student), _distances(teacher)
    no_angle = (d_student == 0) | (
        d_teacher == 0
    )  # the diagonal is in it: an image is no end of its own vertex
    q_student, inverse_student = (
        d_student.square(),
        d_student.reciprocal().masked_fill(no_angle, 0.0),
    )
    q_teacher, inverse_teacher = (
        d_teacher.square(),
        d_teacher.reciprocal().masked_fill(no_angle, 0.0),
    )
    loss, gradient = q_student.new_zeros(()), torch.zeros_like(q_student)
    step = max(1, COSINES_AT_ONCE.get(student.device.type, 2**22) // n**2)
    for start in range(0, n, step):
        j = slice(
            start, start + step
        )  # these vertices; what follows is (vertices j, ends i, ends k)
        cosine, scale = _cosines(q_student, inverse_student, j)
        difference = (
            cosine - _cosines(q_teacher, inverse_teacher, j)[0]
        )  # 0 where i = k, for both cosines are 1
        slope = difference.clamp(
            -delta, delta
        )  # of the Huber loss, which is slope * (difference - slope / 2)
        loss += difference.sub_(slope, alpha=0.5).mul_(slope).sum()
        # d cos / d q_ij = scale - cos / (2 q_ij), twice, for i comes first and second; d cos / d q_ik = -scale.
        widen = scale.mul_(slope)
        shrink = cosine.mul_(slope).sum(dim=2) * inverse_student[j].square()
        gradient[j] += 2.0 * widen.sum(dim=2) - shrink
        gradient -= widen.sum(dim=0)
    gradient += gradient.mT.clone()
    points = student.double() - student.double().mean(
        dim=0
    )  # centred: the two terms of the next line cancel less
    gradient = 2.0 * (gradient.sum(dim=1, keepdim=True) * points - gradient @ points)
    triplets = n * (n - 1) * (n - 2)
    return loss / triplets, gradient / triplets


def _distances(points: Tensor) -> Tensor:
    """All (N, N) distances, in float64; 0 where the points' own dtype hardly tells two apart: their angles are noise."""
    distances = points.new_zeros(len(points), len(points), dtype=torch.float64)
    i, j = torch.triu_indices(len(points), len(points), offset=1, device=points.device)
    distances[i, j] = F.pdist(points.double())
    norms = points.double().norm(dim=1)
    distances.masked_fill_(
        distances <= torch.finfo(points.dtype).eps * torch.maximum(norms[:, None], norms), 0.0
    )
    return distances + distances.mT


def _cosines(squared: Tensor, inverse: Tensor, j: slice) -> tuple[Tensor, Tensor]:
    """At vertices j the cosine of every pair of ends (i, k), and 1 / (2 d_ij d_kj); 0 where there is no angle."""
    scale = inverse[j, :, None] * (0.5 * inverse[j, None, :])
    return (squared[j, :, None] + squared[j, None, :]).sub_(squared).mul_(scale), scale


@MODELS.register_module()
class AngleLoss(nn.Module):
    """:func:`angle_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.
        delta: See :func:`angle_loss`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, loss_weight: float = 1.0, delta: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.delta = positive_number('delta', delta)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.loss_weight * angle_loss(student, teacher, self.delta)
