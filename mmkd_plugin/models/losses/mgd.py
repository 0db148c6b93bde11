"""MGD loss: the squared error of a generated map (Yang et al., 2022)."""

from torch import Tensor

from mmkd_plugin.models.losses.functional import align, wrong_shapes
from mmkd_plugin.models.losses.loss_module import loss_module


@loss_module('MGDLoss')
def mgd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Compute the squared error between two maps, summed over an image, averaged over the batch.

    .. math:: L = \frac{1}{N} \sum_{n, c, h, w} (s_{nchw} - t_{nchw})^2

    A sum over the map is large: weights are of the order of 1e-5, and depend on the size of images.

    Args:
        student: s, what a generator made of the student's masked map, (N, C, H, W). Receives the
            gradient.
        teacher: t, with the same N and C. Receives no gradient. The larger map is average-pooled
            to the size of the smaller.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ValueError: If the inputs are not 4-D or differ in N or C.

    Example:
        >>> import torch
        >>> mgd_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
        tensor(48.)

    Reference:
        Yang et al., Masked Generative Distillation, ECCV 2022, eq. 4. The division by N is the
        authors' code.
    """
    if student.ndim != 4 or teacher.ndim != 4:
        must = 'must both be (N, C, H, W), with the same N and C'
        raise wrong_shapes('mgd_loss', must, student=student, teacher=teacher)
    student, teacher = align('mgd_loss', student, teacher)
    return (student - teacher).square().sum() / len(student)
