"""Linear centred kernel alignment, as a similarity and as a loss (Kornblith et al., 2019)."""

import torch
from torch import Tensor

from mmkd_plugin.models.losses.functional import at_least_float32, wrong_shapes
from mmkd_plugin.models.losses.loss_module import RelationLoss, loss_module


@loss_module('CKALoss', RelationLoss)
def cka_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Compute 1 - CKA of the student's and the teacher's representations of a batch.

    .. math:: L = 1 - CKA(X_S, X_T)

    See :func:`linear_cka` for the equation and its invariances. A similarity that is estimated from
    few images of many features is near 1, so the loss is near 0. Use batches of more images than
    features where possible.

    Args:
        student: Representation of N images, (N, ...), flattened to (N, D_s). Receives the gradient.
        teacher: The teacher's of the same images, (N, ...); D_t may differ. Receives no gradient.

    Returns:
        A scalar in float32 or wider, between 0 and 1. It has no gradient for one image, where it
        is 1, nor for two, where it is 0.

    Raises:
        ValueError: If the inputs have no features or differ in N.

    Example:
        >>> student = torch.tensor([[0.0], [1.0], [2.0]])
        >>> teacher = torch.tensor([[0.0], [0.0], [3.0]])
        >>> cka_loss(student, teacher)
        tensor(0.2500)

    Reference:
        Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019, for the
        similarity. Its complement as a loss is a choice of this project.
    """
    return 1.0 - _similarity('cka_loss', student=student, teacher=teacher.detach())


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Compute the similarity of two representations of the same images, between 0 and 1.

    .. math:: CKA = \frac{\|X^\top Y\|_F^2}{\|X^\top X\|_F \|Y^\top Y\|_F}
                  = \frac{\langle XX^\top, YY^\top \rangle}{\|XX^\top\|_F \|YY^\top\|_F}

    with X and Y centred: every feature has mean 0 over the batch. The cheaper of the two equal
    forms is computed. CKA is invariant to shifts, to rotations and reflections of the features, and
    to a common scale. It is not invariant to scaling features one by one.

    The fewer images there are per feature, the nearer CKA is to 1, even for unrelated
    representations. Compare only values for equal numbers of images and features.

    Args:
        x: Representation of N images, (N, ...), flattened to (N, D_x). Receives a gradient.
        y: Another of the same images, (N, ...); D_y may differ. Receives a gradient as well, unless
            the caller detaches it.

    Returns:
        A scalar in float32 or wider, whatever the autocast. It is 0, without gradient, if either
        representation is the same for all images, hence also for one image. It is 1, without
        gradient, for any two images.

    Raises:
        ValueError: If the inputs have no features or differ in N.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [0.0], [3.0]])
        >>> linear_cka(x, y)  # the squared correlation
        tensor(0.7500)

    Reference:
        Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019.
    """
    return _similarity('linear_cka', x=x, y=y)


def _similarity(function: str, **pair: Tensor) -> Tensor:
    x, y = pair.values()
    if x.ndim < 2 or y.ndim < 2 or len(x) != len(y):
        raise wrong_shapes(function, 'must be (N, ...) with the same N and with features', **pair)
    x, y = (_centred(one) for one in at_least_float32(x, y))
    n, d_x, d_y = len(x), x.shape[1], y.shape[1]
    with torch.autocast(x.device.type, enabled=False):  # it would multiply float32 in bfloat16
        if n * (d_x + d_y) <= d_x**2 + d_x * d_y + d_y**2:  # multiplications, divided by n
            of_x, of_y = (x @ x.mT).double(), (y @ y.mT).double()
            alike = (of_x * of_y).sum()
        else:
            of_x, of_y = (x.mT @ x).double(), (y.mT @ y).double()
            alike = (x.mT @ y).double().square().sum()
    # The reductions are float64: float32 cannot hold fourth powers of the features.
    norms = of_x.norm() * of_y.norm()
    return (alike / norms.masked_fill(norms == 0, torch.inf)).to(x.dtype)


def _centred(x: Tensor) -> Tensor:
    """Subtract the mean over N from (N, D); the result is exactly 0 if all rows are equal."""
    rows = x.flatten(1)
    rows = rows - rows[:1].detach()  # keeps digits, changes neither the result nor its gradient
    return rows.sub_(rows.mean(dim=0))
