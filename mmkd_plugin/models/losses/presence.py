"""Presence loss: image-level cross-entropy of the largest response of each class."""

import torch
from torch import Tensor

from mmkd_plugin.models.losses.functional import at_least_float32, wrong_shapes


def presence_loss(probs: Tensor, images: Tensor, present: Tensor) -> Tensor:
    r"""Compute the binary cross-entropy of each class's largest probability in an image.

    .. math:: L = -\frac{1}{|I|\,C} \sum_{n \in I} \sum_c
              \left( y_{nc} \log m_{nc} + (1 - y_{nc}) \log (1 - m_{nc}) \right),
              \quad m_{nc} = \max_{r:\, n_r = n} p_{rc}

    over the images :math:`I` that have a location. No label assignment is needed. The maxima are
    clamped to [1e-6, 1 - 1e-6] before the logarithm.

    Args:
        probs: p, probabilities of the foreground classes at R locations, (R, C). Receives the
            gradient, at the location of each maximum.
        images: The number of the image of each location, (R,).
        present: y, 1 if the image has an object of the class, (N, C). Receives no gradient.

    Returns:
        A scalar in float32 or wider, whatever the autocast; 0 if there is no location.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> probs = torch.tensor([[0.5, 0.2], [0.1, 0.4]])  # two locations of one image
        >>> presence_loss(probs, torch.tensor([0, 0]), torch.tensor([[1.0, 0.0]]))
        tensor(0.6020)

    Reference:
        A choice of this project, for the label-aware weights of AMTML-KD in detection. The largest
        response as the score of an image is that of multiple-instance learning.
    """
    if (
        probs.ndim != 2
        or images.shape != probs.shape[:1]
        or present.ndim != 2
        or present.shape[1] != probs.shape[1]
    ):
        shapes = dict(probs=probs, images=images, present=present)
        raise wrong_shapes('presence_loss', 'must be (R, C), (R,) and (N, C)', **shapes)
    probs = at_least_float32(probs)
    index = images[:, None].expand_as(probs)
    zeros = torch.zeros(present.shape, dtype=probs.dtype, device=probs.device)
    maxima = zeros.scatter_reduce(0, index, probs, 'amax')
    located = torch.zeros(len(present), dtype=torch.bool, device=probs.device)
    located = located.index_fill(0, images, True)
    rows = maxima[located].clamp(1e-6, 1 - 1e-6)
    labels = present.detach()[located].to(rows.dtype)
    entropy = -(labels * rows.log() + (1 - labels) * (1 - rows).log())
    return entropy.sum() / max(entropy.numel(), 1)
