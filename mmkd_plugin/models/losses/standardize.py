"""Logits of mean 0 and standard deviation 1 (Sun et al., 2024)."""

import torch
from torch import Tensor

from mmkd_plugin.models.losses.functional import at_least_float32


def standardize_logits(logits: Tensor) -> Tensor:
    r"""Standardise the logits of each row over the classes.

    .. math:: z'_k = \frac{z_k - \bar z}{s(z) + 10^{-7}}, \quad
              s(z)^2 = \frac{1}{C - 1} \sum_k (z_k - \bar z)^2

    The result does not change if all logits of a row are shifted, or are multiplied by one positive
    number. A student then has to match the teacher's relations between classes, not the size of its
    logits.

    Args:
        logits: z, (..., C).

    Returns:
        Standardised logits, in float32 or wider. They are 0 in a row of equal logits, and if there
        is one class.

    Example:
        >>> standardize_logits(torch.tensor([[1.0, 3.0, 5.0]]))
        tensor([[-1.,  0.,  1.]])

    Reference:
        Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, section 3. The paper
        divides by C, its code by C - 1, as here.
    """
    logits = at_least_float32(logits)
    centred = logits - logits.mean(dim=-1, keepdim=True)
    degrees = max(logits.shape[-1] - 1, 1)
    deviation = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / degrees**0.5
    return centred / (deviation + 1e-7)
