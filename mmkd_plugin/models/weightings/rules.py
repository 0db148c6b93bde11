"""Weightings without parameters: constant, random, or computed from the teachers' outputs."""

import torch
from torch import Tensor

from mmkd_plugin.errors import ConfigError
from mmkd_plugin.models.losses.functional import at_least_float32
from mmkd_plugin.models.weightings.base import TeacherWeighting
from mmkd_plugin.registry import MODELS


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
    return at_least_float32(teacher_logits)
