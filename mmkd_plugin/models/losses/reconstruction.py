"""Reconstruction: what a paraphraser's decoder makes of the factor is the map that its encoder was given."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.errors import non_negative_number, one_of
from mmkd_plugin.models.losses.comparable import widened
from mmkd_plugin.registry import MODELS

DISTANCES = ('l1', 'l2')


def reconstruction_loss(reconstruction: Tensor, target: Tensor, distance: str = 'l1') -> Tensor:
    r"""Mean absolute or mean squared error of the reconstruction.

    .. math:: L_{rec} = \frac{1}{NCHW} \| f_T - R(f_T) \|_1 \quad \text{or} \quad \frac{1}{NCHW} \| f_T - R(f_T) \|_2^2

    Args:
        reconstruction: R(f_T), (N, C, H, W) or (N, C). Receives the gradient.
        target: f_T, the teacher's map, of the same shape: an autoencoder that changes the size is in error. Receives none.
        distance: 'l1', as both authors' codes have it; 'l2', as both papers do.

    Returns:
        A scalar in float32 or wider, whatever the autocast: a mean over all elements (the papers sum).

    Raises:
        ValueError: If the shapes differ or the distance is unknown.

    Source: Kim et al., Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018; Huang et al.,
    Revisiting Knowledge Distillation: An Inheritance and Exploration Framework, CVPR 2021.
    """
    one_of('distance', distance, DISTANCES)
    if reconstruction.ndim not in (2, 4) or reconstruction.shape != target.shape:
        raise ValueError(
            'reconstruction_loss compares (N, C, H, W) with (N, C, H, W), or (N, C) with (N, C): '
            f'got reconstruction {tuple(reconstruction.shape)}, target {tuple(target.shape)}'
        )
    reconstruction, target = widened(reconstruction, target)
    return (
        F.l1_loss(reconstruction, target)
        if distance == 'l1'
        else F.mse_loss(reconstruction, target)
    )


@torch.no_grad()
def relative_error(reconstruction: Tensor, target: Tensor) -> Tensor:
    r"""How much of a map is lost, to be logged: :math:`\|R(f) - f\|_2 / \|f\|_2` over the batch.

    Args:
        reconstruction: R(f), (N, C, H, W).
        target: f, of the same shape.

    Returns:
        A scalar without gradient, in float32 or wider.
    """
    dtype = torch.promote_types(target.dtype, torch.float32)
    wide = target.to(dtype)
    return (reconstruction.to(dtype) - wide).norm() / wide.norm().clamp_min(torch.finfo(dtype).tiny)


@MODELS.register_module()
class ReconstructionLoss(nn.Module):
    """:func:`reconstruction_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.
        distance: See :func:`reconstruction_loss`.

    Raises:
        ValueError: If the weight or the word is out of range.
    """

    def __init__(self, loss_weight: float = 1.0, distance: str = 'l1') -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)
        self.distance = one_of('distance', distance, DISTANCES)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        return self.loss_weight * reconstruction_loss(reconstruction, target, self.distance)
