"""Which classes are in an image, judged by the place that is surest of each."""

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.registry import MODELS


def presence_loss(probs: Tensor, images: Tensor, present: Tensor) -> Tensor:
    r"""Binary cross-entropy of the largest probability of each class with whether the class is in the image.

    .. math:: L = -\frac{1}{|I|\,C} \sum_{n \in I} \sum_c \left( y_{nc} \log m_{nc} + (1 - y_{nc}) \log (1 - m_{nc}) \right),
              \quad m_{nc} = \max_{r:\, n_r = n} p_{rc}

    over the images :math:`I` that have a place at all. It asks no assigner which place an object belongs to.

    Args:
        probs: p, probabilities of the foreground's classes at places, (R, C). Receives the gradient.
        images: The number of the image that each place is in, (R,).
        present: y, 1 where an image has an object of the class, (N, C).

    Returns:
        A scalar in float32 or wider, whatever the autocast; 0 if there is no place.

    Raises:
        ValueError: If the shapes do not fit.

    Source: our choice, for the label-aware weights of AMTML-KD in detection; the largest response as the score of an image is that of
    multiple-instance learning.
    """
    if (
        probs.ndim != 2
        or images.shape != probs.shape[:1]
        or present.ndim != 2
        or present.shape[1] != probs.shape[1]
    ):
        raise ValueError(
            'presence_loss compares (R, C) of the images (R,) with (N, C): '
            f'got {tuple(probs.shape)}, {tuple(images.shape)} and {tuple(present.shape)}'
        )
    wide = probs.to(torch.promote_types(probs.dtype, torch.float32))
    index = images[:, None].expand_as(wide)
    surest = torch.zeros(present.shape, dtype=wide.dtype, device=wide.device).scatter_reduce(
        0, index, wide, 'amax'
    )
    seen = torch.zeros(len(present), dtype=torch.bool, device=wide.device).index_fill(
        0, images, True
    )
    rows = surest[seen].clamp(1e-6, 1 - 1e-6)
    labels = present[seen].to(rows.dtype)
    entropy = -(labels * rows.log() + (1 - labels) * (1 - rows).log())
    return entropy.sum() / max(entropy.numel(), 1)


@MODELS.register_module()
class PresenceLoss(nn.Module):
    """:func:`presence_loss` with a weight, for configs.

    Args:
        loss_weight: Multiplies the loss.

    Raises:
        ValueError: If the weight is negative or NaN.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = non_negative_number('loss_weight', loss_weight)

    def forward(self, probs: Tensor, images: Tensor, present: Tensor) -> Tensor:
        return self.loss_weight * presence_loss(probs, images, present)
