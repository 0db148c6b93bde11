"""Divergences of a student's class scores from soft targets of one or several teachers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmkd_plugin.errors import ConfigError, construct, non_negative_number
from mmkd_plugin.models.losses import dist_loss, dkd_loss, nkd_loss, soft_target_loss
from mmkd_plugin.models.methods.tap_checks import few_rows
from mmkd_plugin.outputs import ClassScores, ScoreRows


class Divergence(ABC):
    """A loss between the student's class scores and soft targets."""

    #: Whether an image needs one label.
    needs_labels: ClassVar[bool] = False
    #: Whether it reads logits of the targets, or their probabilities.
    from_logits: ClassVar[bool] = True

    @abstractmethod
    def __call__(
        self, rows: ScoreRows, target: Tensor, temperature: float, labels: Tensor | None
    ) -> Tensor:
        """Compute the loss of one batch.

        Args:
            rows: Class scores of all networks.
            target: Logits or softened probabilities of the soft targets, (R, C).
            temperature: Divides the logits.
            labels: Labels of the batch.
        """

    def require(self, scores: ClassScores) -> None:
        """Refuse class scores that it cannot compare.

        Raises:
            ConfigError: With the reason; its key is '', that of the divergence.
        """
        if self.needs_labels and not (scores.per_image and scores.activation == 'softmax'):
            raise ConfigError(
                '',
                'needs one label for each row of class scores: a classifier with a softmax',
                "Use 'SoftTarget' or 'DIST'; for dense detectors also 'BCKD'.",
                found=str(scores),
            )


class KL(Divergence):
    """Kullback-Leibler divergence: :func:`~mmkd_plugin.models.losses.soft_target_loss`."""

    from_logits = False

    def __call__(
        self, rows: ScoreRows, target: Tensor, temperature: float, labels: Tensor | None
    ) -> Tensor:
        return soft_target_loss(rows.student, target, temperature, rows.activation, rows.weights)


class Correlations(Divergence):
    """:func:`~mmkd_plugin.models.losses.dist_loss`.

    Args:
        inter_weight: Weight of the correlation of classes.
        intra_weight: Weight of the correlation of images.
    """

    def __init__(self, inter_weight: float = 1.0, intra_weight: float = 1.0) -> None:
        self.inter_weight = non_negative_number('inter_weight', inter_weight)
        self.intra_weight = non_negative_number('intra_weight', intra_weight)

    def __call__(
        self, rows: ScoreRows, target: Tensor, temperature: float, labels: Tensor | None
    ) -> Tensor:
        few_rows('DIST', len(rows.student), 2)
        weights = float(self.inter_weight), float(self.intra_weight)
        return dist_loss(rows.student, target, temperature, *weights, rows.activation, rows.weights)


class Decoupled(Divergence):
    """:func:`~mmkd_plugin.models.losses.dkd_loss`.

    Args:
        alpha: Weight of the target class.
        beta: Weight of the other classes.
    """

    needs_labels = True

    def __init__(self, alpha: float = 1.0, beta: float = 8.0) -> None:
        self.alpha = non_negative_number('alpha', alpha)
        self.beta = non_negative_number('beta', beta)

    def __call__(
        self, rows: ScoreRows, target: Tensor, temperature: float, labels: Tensor | None
    ) -> Tensor:
        return dkd_loss(
            rows.student,
            target,
            _one_label(labels),
            temperature,
            float(self.alpha),
            float(self.beta),
        )


class Normalised(Divergence):
    """:func:`~mmkd_plugin.models.losses.nkd_loss`.

    Args:
        gamma: Weight of the other classes.
    """

    needs_labels = True

    def __init__(self, gamma: float = 1.5) -> None:
        self.gamma = non_negative_number('gamma', gamma)

    def __call__(
        self, rows: ScoreRows, target: Tensor, temperature: float, labels: Tensor | None
    ) -> Tensor:
        return nkd_loss(rows.student, target, _one_label(labels), temperature, float(self.gamma))


#: By the name of the method that has it.
DIVERGENCES: dict[str, type[Divergence]] = {
    'SoftTarget': KL,
    'DIST': Correlations,
    'DKD': Decoupled,
    'NKD': Normalised,
}


def build_divergence(key: str, config: Mapping[str, Any] | None) -> Divergence:
    """Build from ``dict(type='DKD', beta=2.0)``; None is the divergence of soft targets.

    Raises:
        ConfigError: If the type is unknown, or an argument is wrong.
    """
    if config is None:
        return KL()
    if not isinstance(config, Mapping) or config.get('type') not in DIVERGENCES:
        raise ConfigError(
            key, f'must be dict(type=…) with one of {", ".join(DIVERGENCES)}', found=config
        )
    given = {name: value for name, value in config.items() if name != 'type'}
    return construct(key, DIVERGENCES[config['type']], given)


def mixed_logits(rows: ScoreRows, weights: Tensor | None, temperature: float) -> Tensor:
    """Return logits (R, C) whose softened probabilities are the teachers' mixture.

    Args:
        rows: Class scores of all networks.
        weights: Weights of the teachers of each row, (R, T); None for equal ones.
        temperature: Divides the logits.
    """
    if rows.teachers.shape[1] == 1:
        return rows.teachers[:, 0]
    softened = rows.teachers / temperature
    if weights is None:
        count = rows.teachers.shape[1]
        weights = softened.new_full(rows.teachers.shape[:2], 1 / count)
    if rows.activation == 'sigmoid':
        mixture = (weights[:, :, None] * softened.sigmoid()).sum(dim=1)
        return temperature * mixture.logit(eps=1e-6)
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    mixture = (softened.log_softmax(dim=2) + logs[:, :, None]).logsumexp(dim=1)
    return temperature * mixture


def _one_label(labels: Tensor | None) -> Tensor:
    if labels is None or labels.ndim != 1:
        found = None if labels is None else tuple(labels.shape)
        raise ConfigError(
            'type',
            'needs one label an image; the batch has none, or mixed ones',
            'Leave Mixup and CutMix out, or use SoftTarget or DIST.',
            found=found,
        )
    return labels
