"""CWD loss: match the distribution of each channel over the map (Shu et al., 2021)."""

from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.errors import positive_number
from mmkd_plugin.models.losses.functional import align, weighted_mean, wrong_shapes
from mmkd_plugin.models.losses.loss_module import loss_module


@loss_module('CWDLoss', temperature=positive_number)
def cwd_loss(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    r"""Compute the KL divergence between channels that are softened over their locations.

    .. math:: L = \frac{\tau^2}{N C} \sum_{n, c} \mathrm{KL}\bigl(
              \mathrm{softmax}_{hw}(t_{nc} / \tau) \,\|\, \mathrm{softmax}_{hw}(s_{nc} / \tau)\bigr)

    The loss does not change if a channel of an image is shifted. It is 0 for maps of one location.

    Args:
        student: s, (N, C, H, W): features or class scores. Receives the gradient.
        teacher: t, with the same N and C. Receives no gradient. The larger map is average-pooled
            to the size of the smaller.
        temperature: :math:`\tau`. The authors have 1 for features and 4 for class scores.
        weights: Factor of each image in place of 1/N, (N,).

    Returns:
        A scalar in float32 or wider.

    Raises:
        ConfigError: If the temperature is no number > 0.
        ValueError: If the inputs are not 4-D or differ in N or C.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[[0.0, 0.0]]]])
        >>> teacher = torch.tensor([[[[0.0, 3.0]]]]).log1p()  # a fifth and four fifths
        >>> cwd_loss(student, teacher)  # 0.2 log(0.4) + 0.8 log(1.6)
        tensor(0.1927)

    Reference:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, eq. 4-6.
    """
    positive_number('temperature', temperature)
    if student.ndim != 4 or teacher.ndim != 4:
        must = 'must both be (N, C, H, W), with the same N and C'
        raise wrong_shapes('cwd_loss', must, student=student, teacher=teacher)
    student, teacher = align('cwd_loss', student, teacher)
    own = (student.flatten(2) / temperature).log_softmax(dim=2)
    target = (teacher.flatten(2) / temperature).log_softmax(dim=2)
    rows = location_divergence(own, target).mean(dim=1)
    return temperature**2 * weighted_mean('cwd_loss', rows, weights)


def location_divergence(student: Tensor, target: Tensor) -> Tensor:
    """Return the KL divergence of distributions over locations, given as logarithms.

    Args:
        student: (…, P).
        target: (…, P); receives a gradient unless the caller detaches it.

    Returns:
        (…).
    """
    divergence = F.kl_div(student, target, reduction='none', log_target=True)
    return divergence.sum(dim=-1)
