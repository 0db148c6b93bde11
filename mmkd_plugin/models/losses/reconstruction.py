"""Reconstruction loss of a paraphraser, and the relative error that is logged."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.errors import one_of
from mmkd_plugin.models.losses.functional import at_least_float32, wrong_shapes

DISTANCES = ('l1', 'l2')


def reconstruction_loss(reconstruction: Tensor, target: Tensor, distance: str = 'l1') -> Tensor:
    r"""Compute the mean absolute or the mean squared error of an autoencoder's output.

    .. math:: L_{rec} = \frac{1}{NCHW} \| f_T - R(f_T) \|_1 \quad \text{or} \quad
              \frac{1}{NCHW} \| f_T - R(f_T) \|_2^2

    Args:
        reconstruction: R(f_T), (N, C, H, W) or (N, C). Receives the gradient.
        target: f_T, the teacher's map, of the same shape; it is not pooled, because an autoencoder
            must keep the size. Receives no gradient.
        distance: 'l1', as in the code of both papers' authors; 'l2', as in both papers.

    Returns:
        A scalar in float32 or wider, whatever the autocast: a mean over all elements (the papers
        sum).

    Raises:
        ValueError: If the shapes differ or the distance is unknown.

    Example:
        >>> reconstruction, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> reconstruction_loss(reconstruction, target)
        tensor(1.5000)
        >>> reconstruction_loss(reconstruction, target, distance='l2')
        tensor(2.5000)

    Reference:
        Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS
        2018; Huang et al., Revisiting Knowledge Distillation: An Inheritance and Exploration
        Framework, CVPR 2021.
    """
    one_of('distance', distance, DISTANCES)
    if reconstruction.ndim not in (2, 4) or reconstruction.shape != target.shape:
        shapes = dict(reconstruction=reconstruction, target=target)
        must = 'must be (N, C, H, W) or (N, C), of one shape'
        raise wrong_shapes('reconstruction_loss', must, **shapes)
    reconstruction, target = at_least_float32(reconstruction, target.detach())
    function = F.l1_loss if distance == 'l1' else F.mse_loss
    return function(reconstruction, target)


@torch.no_grad()
def relative_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    r"""Compute the part of a map that a reconstruction loses, for the log.

    .. math:: \|R(f) - f\|_2 / \|f\|_2

    with the norms over the whole batch.

    Args:
        reconstruction: R(f), (N, C, H, W).
        target: f, of the same shape.

    Returns:
        A scalar without gradient, in float32 or wider; 0 for a reconstruction of zeros by zeros.

    Example:
        >>> relative_error(torch.tensor([[4.0, 0.0]]), torch.tensor([[4.0, 3.0]]))
        tensor(0.6000)
    """
    target = at_least_float32(target)
    difference = reconstruction.to(target.dtype) - target
    return difference.norm() / target.norm().clamp_min(torch.finfo(target.dtype).tiny)
