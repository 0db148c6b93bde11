"""The learned weighting of AMTML-KD."""

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, positive_integer, positive_number
from mmkd_plugin.models.losses.functional import at_least_float32
from mmkd_plugin.models.weightings.base import TeacherWeighting
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class LatentTeacherWeighting(TeacherWeighting):
    r"""Weigh teachers by learned factors that are compared with the image's embedding (AMTML-KD).

    .. math:: \gamma_{t,i} = v^\top (\theta_t \odot A_i), \qquad
              w_{t,i} = \mathrm{softmax}_t\, \gamma_{t,i}

    with the embedding :math:`A_i` of image i, a factor :math:`\theta_t` for each teacher, and a
    direction :math:`v`.

    Entries of :math:`\theta` and :math:`v` start normal with standard deviation
    :math:`d^{-1/4}/2`. Scores then begin at a quarter of the size of the entries of :math:`A_i`,
    whatever d. Unit variance saturates the softmax, and all zeros is a stationary point.

    Weight decay pulls both to zero, which makes the weights uniform. Exclude them:
    ``paramwise_cfg=dict(custom_keys={'weighting': dict(decay_mult=0.)})``.

    Args:
        num_teachers: T.
        embed_dims: d.
        init_std: Standard deviation at the start. Default: :math:`d^{-1/4}/2`.

    Shape:
        An embedding (N, d) gives weights (N, T).

    Raises:
        ConfigError: If a number is out of range, or if an embedding has another length than d.

    Example:
        >>> weighting = LatentTeacherWeighting(num_teachers=3, embed_dims=64)
        >>> weights = weighting(torch.rand(8, 64))
        >>> weights.shape
        torch.Size([8, 3])
        >>> torch.allclose(weights.sum(dim=1), torch.ones(8))
        True

    Reference:
        Liu et al., AMTML-KD, 2020, eq. 5-6. The authors' code draws both from a standard normal
        distribution and decays them by 0.1.
    """

    learns = True
    frozen: Tensor
    frozen_factors: Tensor
    frozen_direction: Tensor

    def __init__(self, num_teachers: int, embed_dims: int, init_std: float | None = None) -> None:
        super().__init__(num_teachers)
        positive_integer('embed_dims', embed_dims)
        std = 0.5 * embed_dims**-0.25 if init_std is None else positive_number('init_std', init_std)
        self.factors = nn.Parameter(torch.randn(num_teachers, embed_dims) * std)
        self.direction = nn.Parameter(torch.randn(embed_dims) * std)
        # Frozen values are buffers beside the parameters: DDP stops at a parameter that leaves the
        # graph, and momentum or decay moves a parameter even without gradient.
        self.register_buffer('frozen', torch.tensor(False))
        self.register_buffer('frozen_factors', torch.zeros(num_teachers, embed_dims))
        self.register_buffer('frozen_direction', torch.zeros(embed_dims))

    def freeze(self) -> None:
        """Keep the present factors and direction from now on; a second call changes nothing."""
        if not self.frozen:
            self.frozen_factors.copy_(self.factors.detach())
            self.frozen_direction.copy_(self.direction.detach())
            self.frozen.fill_(True)

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        dims = self.direction.numel()
        if embedding.ndim != 2 or embedding.shape[1] != dims:
            raise ConfigError(
                'embed_dims', f'needs an embedding (N, {dims})', found=tuple(embedding.shape)
            )
        wide = at_least_float32(embedding)
        with torch.autocast(wide.device.type, enabled=False):
            factors = torch.where(self.frozen, self.frozen_factors, self.factors)
            direction = torch.where(self.frozen, self.frozen_direction, self.direction)
            return (wide @ (factors * direction).T).softmax(dim=1)
