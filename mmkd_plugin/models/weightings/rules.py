"""Rules that weigh several teachers for each image, exchangeable in a config."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import ConfigError, positive_integer, positive_number
from mmkd_plugin.registry import MODELS


class TeacherWeighting(nn.Module, ABC):
    """Give each image a distribution over the teachers.

    The class attributes can be read before a rule is built.

    Args:
        num_teachers: T.
        embed_dims: d, the length of the student's embedding.

    Attributes:
        learns: Whether the rule has trainable parameters.
        needs_labels: Whether the rule needs labels.
        needs_logits: Whether the rule needs class scores of whole images, which detectors lack.

    Raises:
        ConfigError: If ``num_teachers`` is not a positive integer.
    """

    learns: bool = False
    needs_labels: bool = False
    needs_logits: bool = False

    def __init__(self, num_teachers: int, embed_dims: int | None = None) -> None:
        super().__init__()
        self.num_teachers = positive_integer('num_teachers', num_teachers)

    @abstractmethod
    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return the weight of each teacher for each image.

        Args:
            embedding: The student's embedding of each image, (N, d).
            teacher_logits: Class scores of all teachers, (N, T, C).
            labels: Class indices (N,) or class probabilities (N, C).

        Returns:
            Weights (N, T), each row non-negative with sum 1, in at least float32.
        """

    def freeze(self) -> None:
        """Keep the rule as it is from now on; only a learned rule changes at all."""


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
        wide = _at_least_float32(embedding)
        with torch.autocast(wide.device.type, enabled=False):
            factors = torch.where(self.frozen, self.frozen_factors, self.factors)
            direction = torch.where(self.frozen, self.frozen_direction, self.direction)
            return (wide @ (factors * direction).T).softmax(dim=1)


@MODELS.register_module()
class UniformTeacherWeighting(TeacherWeighting):
    r"""Give every teacher the same weight (AvgMKD).

    .. math:: w_{t,i} = 1 / T

    Args:
        num_teachers: T.
        embed_dims: Not used.

    Shape:
        An embedding (N, d) gives weights (N, T).

    Raises:
        ConfigError: If ``num_teachers`` is not a positive integer.

    Example:
        >>> UniformTeacherWeighting(num_teachers=4)(torch.rand(1, 64))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        return torch.full(
            (len(embedding), self.num_teachers), 1 / self.num_teachers, device=embedding.device
        )


@MODELS.register_module()
class RandomTeacherWeighting(TeacherWeighting):
    r"""Draw the weights of each image anew in every step: the control for the other rules.

    .. math:: w_i \sim \mathrm{Dirichlet}(1, \ldots, 1)

    This is the uniform distribution over all weightings.

    Args:
        num_teachers: T.
        embed_dims: Not used.

    Shape:
        An embedding (N, d) gives weights (N, T).

    Raises:
        ConfigError: If ``num_teachers`` is not a positive integer.

    Example:
        >>> weights = RandomTeacherWeighting(num_teachers=3)(torch.rand(8, 64))
        >>> torch.allclose(weights.sum(dim=1), torch.ones(8))
        True
    """

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        draws = torch.empty(
            len(embedding), self.num_teachers, device=embedding.device
        ).exponential_()
        return draws / draws.sum(dim=1, keepdim=True)


@MODELS.register_module()
class ConfidenceTeacherWeighting(TeacherWeighting):
    r"""Give a teacher less weight, the larger its cross-entropy with the label (CA-MKD).

    .. math:: w_t = \frac{1}{T-1} \bigl(1 - \mathrm{softmax}_t\, \mathrm{CE}(z_t, y)\bigr)

    No weight exceeds 1/(T-1). A single teacher has weight 1.

    Args:
        num_teachers: T.
        embed_dims: Not used.

    Shape:
        Logits (N, T, C) with labels (N,) or (N, C) give weights (N, T).

    Raises:
        ConfigError: If there are no labels, or if the logits are not those of T teachers.

    Example:
        >>> weighting = ConfidenceTeacherWeighting(num_teachers=3)
        >>> probabilities = torch.tensor([[[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]])
        >>> weighting(torch.rand(1, 64), probabilities.log(), labels=torch.tensor([0]))
        tensor([[0.4528, 0.4245, 0.1226]])

    Reference:
        Zhang et al., Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022, eq. 2-3.
    """

    needs_labels = True
    needs_logits = True

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        if labels is None:
            raise ConfigError(
                'weighting',
                'needs labels',
                'ConfidenceTeacherWeighting compares the teachers with the label. Use data with '
                'labels, or another weighting.',
                found=None,
            )
        log_probs = _wide_logits(teacher_logits, self.num_teachers).log_softmax(dim=-1)
        if self.num_teachers == 1:
            return torch.ones_like(log_probs[..., 0])
        if labels.ndim == 1:
            entropy = -log_probs.gather(
                2, labels.view(-1, 1, 1).expand(-1, self.num_teachers, 1)
            ).squeeze(2)
        else:
            entropy = -(labels.unsqueeze(1) * log_probs).sum(dim=-1)
        return (1 - entropy.softmax(dim=1)) / (self.num_teachers - 1)


@MODELS.register_module()
class EntropyTeacherWeighting(TeacherWeighting):
    r"""Give a teacher more weight, the lower the entropy of its prediction, right or wrong (EBKD).

    .. math:: w_t = \mathrm{softmax}_t (-H(\mathrm{softmax}\, z_t))

    Args:
        num_teachers: T.
        embed_dims: Not used.

    Shape:
        Logits (N, T, C) give weights (N, T).

    Raises:
        ConfigError: If the logits are not those of T teachers.

    Example:
        >>> weighting = EntropyTeacherWeighting(num_teachers=2)
        >>> weighting(torch.rand(1, 64), torch.tensor([[[0.0, 0.0], [200.0, 0.0]]]))
        tensor([[0.3333, 0.6667]])

    Reference:
        Kwon et al., Adaptive Knowledge Distillation Based on Entropy, ICASSP 2020. The paper weighs
        by low entropy; the softmax is our choice.
    """

    needs_logits = True

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        log_probs = _wide_logits(teacher_logits, self.num_teachers).log_softmax(dim=-1)
        return (log_probs.exp() * log_probs).sum(dim=-1).softmax(dim=1)


def _wide_logits(teacher_logits: Tensor | None, num_teachers: int) -> Tensor:
    """Return the logits of all teachers in at least float32."""
    if (
        teacher_logits is None
        or teacher_logits.ndim != 3
        or teacher_logits.shape[1] != num_teachers
    ):
        found = None if teacher_logits is None else tuple(teacher_logits.shape)
        raise ConfigError('num_teachers', f'needs logits (N, {num_teachers}, C)', found=found)
    return _at_least_float32(teacher_logits)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
