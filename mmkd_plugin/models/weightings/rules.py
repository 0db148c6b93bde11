"""How much each image trusts each teacher: rules with one call, exchangeable in a config."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mmkd_plugin.errors import positive_number
from mmkd_plugin.registry import MODELS


class TeacherWeighting(nn.Module, ABC):
    """Gives each image a distribution over the teachers.

    Args:
        num_teachers: T.
        embed_dims: d, the length of the student's instance representation.
    """

    #: Whether it has parameters to learn.
    learns: bool = False
    #: Whether it cannot do without labels.
    needs_labels: bool = False
    #: Whether it looks at class scores of images as a whole, which detectors do not give.
    needs_logits: bool = False

    def __init__(self, num_teachers: int, embed_dims: int | None = None) -> None:
        super().__init__()
        if not isinstance(num_teachers, int) or num_teachers < 1:
            raise ValueError(f'num_teachers: expected an integer >= 1, got {num_teachers!r}')
        self.num_teachers = num_teachers

    @abstractmethod
    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Weigh.

        Args:
            embedding: The student's instance representation, (N, d).
            teacher_logits: Class scores of all teachers, (N, T, C).
            labels: (N,) class indices or (N, C) class probabilities.

        Returns:
            (N, T) weights, each row non-negative with sum 1, in at least float32.
        """

    def freeze(self) -> None:
        """Keep the rule as it is from now on; only a learned one changes at all."""


@MODELS.register_module()
class LatentTeacherWeighting(TeacherWeighting):
    r"""AMTML-KD's: a learned factor a teacher, compared with the image's representation.

    .. math:: \gamma_{t,i} = v^\top (\theta_t \odot A_i), \qquad w_{t,i} = \mathrm{softmax}_t\, \gamma_{t,i}

    Entries start as normal with standard deviation :math:`d^{-1/4}/2`, so that scores begin at a quarter of the size of :math:`A_i`'s
    entries whatever d: unit variance saturates the softmax, and all zeros is a stationary point. Weight decay pulls both to zero, which
    makes the weights uniform: exclude them (``paramwise_cfg=dict(custom_keys={'weighting': dict(decay_mult=0.)})``).

    Args:
        num_teachers: T.
        embed_dims: d.
        init_std: Standard deviation at the start, if not the above.

    Raises:
        ValueError: If a number is out of range, or an embedding has another length than d.

    Source: Liu et al., AMTML-KD, 2020, eq. 5-6. The authors' code draws both from a standard normal and decays them by 0.1.
    """

    learns = True
    frozen: Tensor
    frozen_factors: Tensor
    frozen_direction: Tensor

    def __init__(self, num_teachers: int, embed_dims: int, init_std: float | None = None) -> None:
        super().__init__(num_teachers)
        std = (
            0.5 * positive_number('embed_dims', embed_dims) ** -0.25
            if init_std is None
            else positive_number('init_std', init_std)
        )
        self.factors = nn.Parameter(torch.randn(num_teachers, embed_dims) * std)
        self.direction = nn.Parameter(torch.randn(embed_dims) * std)
        # Frozen values live beside the parameters: a parameter that leaves the graph in mid-run stops DDP, and an optimizer with
        # momentum or decay moves it even without gradient.
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
        if embedding.ndim != 2 or embedding.shape[1] != self.direction.numel():
            raise ValueError(
                f'embed_dims: expected an embedding (N, {self.direction.numel()}), got {tuple(embedding.shape)}'
            )
        wide = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
        with torch.autocast(wide.device.type, enabled=False):
            factors = torch.where(self.frozen, self.frozen_factors, self.factors)
            direction = torch.where(self.frozen, self.frozen_direction, self.direction)
            return (wide @ (factors * direction).T).softmax(dim=1)


@MODELS.register_module()
class UniformTeacherWeighting(TeacherWeighting):
    """Every teacher counts the same (AvgMKD)."""

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        return torch.full(
            (len(embedding), self.num_teachers), 1 / self.num_teachers, device=embedding.device
        )


@MODELS.register_module()
class RandomTeacherWeighting(TeacherWeighting):
    """The control: each image, each time, a fresh draw from the uniform distribution over all weightings (Dirichlet of ones)."""

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        draws = torch.empty(
            len(embedding), self.num_teachers, device=embedding.device
        ).exponential_()
        return draws / draws.sum(dim=1, keepdim=True)


@MODELS.register_module()
class ConfidenceTeacherWeighting(TeacherWeighting):
    r"""CA-MKD's: a teacher counts for less, the larger its cross-entropy with the label.

    .. math:: w_t = \frac{1}{T-1} \bigl(1 - \mathrm{softmax}_t\, \mathrm{CE}(z_t, y)\bigr)

    No teacher can weigh more than 1/(T-1). One teacher alone weighs 1.

    Source: Zhang et al., Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022, eq. 2-3.
    """

    needs_labels = True
    needs_logits = True

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        if labels is None:
            raise ValueError(
                'labels: expected labels, which ConfidenceTeacherWeighting needs, got none'
            )
        log_probs = _logits(teacher_logits, self.num_teachers).log_softmax(dim=-1)
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
    r"""EBKD's idea: a teacher counts for more, the surer it is, right or wrong.

    .. math:: w_t = \mathrm{softmax}_t (-H(\mathrm{softmax}\, z_t))

    Source: Kwon et al., Adaptive Knowledge Distillation Based on Entropy, ICASSP 2020, weighs by low entropy; the softmax is our choice.
    """

    needs_logits = True

    def forward(
        self, embedding: Tensor, teacher_logits: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        log_probs = _logits(teacher_logits, self.num_teachers).log_softmax(dim=-1)
        return (log_probs.exp() * log_probs).sum(dim=-1).softmax(dim=1)


def _logits(teacher_logits: Tensor | None, num_teachers: int) -> Tensor:
    if (
        teacher_logits is None
        or teacher_logits.ndim != 3
        or teacher_logits.shape[1] != num_teachers
    ):
        came = None if teacher_logits is None else tuple(teacher_logits.shape)
        raise ValueError(f'teacher_logits: expected (N, {num_teachers}, C), got {came}')
    return teacher_logits.to(torch.promote_types(teacher_logits.dtype, torch.float32))
