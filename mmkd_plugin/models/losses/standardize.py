"""Standardised logits: mean 0 and standard deviation 1 over the classes (Sun et al., 2024)."""

import torch
from torch import Tensor

from mmkd_plugin.models.losses.functional import at_least_float32

#: Added to the standard deviation, as in the authors' code.
EPS = 1e-7


def standardize_logits(logits: Tensor) -> Tensor:
    r"""Subtract the mean over the classes and divide by the standard deviation over the classes.

    .. math:: \hat z_k = \frac{z_k - \mu}{\sigma + 10^{-7}}, \quad \mu = \frac{1}{K} \sum_k z_k,
              \quad \sigma^2 = \frac{1}{K - 1} \sum_k (z_k - \mu)^2

    A student then need not match the teacher's scale of logits. It is invariant to a shift and a
    positive scale of a row.

    Args:
        logits: z, (…, K).

    Returns:
        A tensor of the same shape in float32 or wider. A row whose logits are equal, up to
        rounding, becomes 0 and receives no gradient. So does a row of one class.

    Example:
        >>> standardize_logits(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
        tensor([[-1.0000,  0.0000,  1.0000],
                [ 0.0000,  0.0000,  0.0000]])

    Reference:
        Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024. The paper divides
        by K. The authors' code, and this function, by K - 1.
    """
    z = at_least_float32(logits)
    classes = z.shape[-1]
    centred = z - z.mean(dim=-1, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    noise = (
        2 * torch.finfo(z.dtype).eps * torch.linalg.vector_norm(z.detach(), dim=-1, keepdim=True)
    )
    deviation = norm / max(classes - 1, 1) ** 0.5
    return centred / (deviation + EPS).masked_fill(norm <= noise, torch.inf)
