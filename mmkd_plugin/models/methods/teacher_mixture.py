"""A mixture of several teachers' soft targets, weighed for each image: the core of AMTML-KD."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.adapters.probe import Probe, TeacherProbe
from mmkd_plugin.adapters.tap_requests import EMBEDDING
from mmkd_plugin.errors import ConfigError, one_of
from mmkd_plugin.models.losses import presence_loss, soft_target_loss
from mmkd_plugin.models.methods.base import Requests
from mmkd_plugin.models.methods.location_weights import LocationWeights
from mmkd_plugin.models.methods.log_targets import (
    log_targets,
    require_standardizable,
    standardized,
)
from mmkd_plugin.models.methods.tap_checks import check_channels
from mmkd_plugin.models.weightings import TeacherWeighting, WeightRecord
from mmkd_plugin.outputs import NetworkOutput, ScoreRows, score_rows
from mmkd_plugin.registry import build_part, class_of

OBJECTIVES = ('paper', 'label')


@dataclass(frozen=True, eq=False)
class Mixture:
    """Mixed soft targets of one batch.

    Args:
        rows: Class scores of all networks.
        target: Mixed probabilities (R, C); gradient reaches the weighting through them.
        temperature: Divides the logits.
        detach: Whether the divergence passes no gradient to the weighting.
        weights: Weights of the teachers for each image, (N, T).
        learning: The loss by which the weighting learns from labels, if it does.
        metrics: Mean entropy of the weights, in units of log T.
    """

    rows: ScoreRows
    target: Tensor
    temperature: float
    detach: bool
    weights: Tensor
    learning: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]

    @property
    def teaching_weights(self) -> Tensor:
        """The weights (N, T), with gradient if a divergence from the mixture may train them."""
        return self.weights.detach() if self.detach else self.weights

    def divergence(self) -> Tensor:
        """Return the divergence of the student from the mixture, times the squared temperature."""
        rows, target = self.rows, self.target.detach() if self.detach else self.target
        return soft_target_loss(
            rows.student, target, self.temperature, rows.activation, rows.weights
        )

    def log_target(self, temperature: float) -> Tensor:
        """Return the mixture at a temperature as logits, (R, C), for other divergences."""
        return log_targets(self.rows, temperature, self.teaching_weights)


class TeacherMixture(nn.Module):
    r"""Weigh the teachers for each image and mix their softened probabilities.

    .. math:: \hat y_i = \sum_t w_{t,i}\,\mathrm{softmax}(z_{t,i} / \tau)

    A weighting that learns has one of two objectives. Under ``'label'`` it minimises the
    cross-entropy of the mixture with the label, and the student receives the mixture detached.
    Under ``'paper'``, which needs no labels, the KL term itself reaches the weighting; that pulls
    the mixture toward what the student outputs already. Under both, as in the authors' code,
    gradient also reaches the student through the embedding that the weights are computed from.

    For detectors an image still has one weight for each teacher, and targets are mixed at each
    location. A location has no label without an assigner. Under ``'label'`` the weighting learns
    which classes are in the image, by :func:`~mmkd_plugin.models.losses.presence_loss` of the
    mixture at temperature 1.

    Args:
        weighting: Config of the rule; ``LatentTeacherWeighting`` if it is None.
        objective: ``'label'`` or ``'paper'``; matters to a rule that learns.
        embedding_tap: The student's embedding: a map (N, d, H, W), max-pooled, or (N, d). None: the
            last output of the backbone, or else the input of the head.
        temperature: :math:`\tau`.
        locations: Weights of the locations of detectors.
        teaches: Whether a divergence that can train the weighting is part of the loss. Without it
            the paper's objective gives the weighting no gradient.
        standardize: Standardise the logits of each network over the classes first. A rule that
            reads the teachers' logits reads them as they are.

    Raises:
        ConfigError: If a word is out of range.

    Reference:
        Liu, Zhang, Wang, Adaptive Multi-Teacher Multi-level Knowledge Distillation, Neurocomputing
        415, 2020, eq. 5-7.
    """

    weighting: TeacherWeighting
    weight_record: WeightRecord

    def __init__(
        self,
        weighting: Mapping[str, Any] | None,
        objective: str,
        embedding_tap: str | None,
        temperature: float,
        locations: LocationWeights,
        teaches: bool = True,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.objective = one_of('objective', objective, OBJECTIVES)
        self.embedding_tap = EMBEDDING if embedding_tap is None else embedding_tap
        self.temperature = temperature
        self.locations = locations
        self.teaches = teaches
        self.standardize = standardize
        self._config = weighting
        self._rule = class_of(weighting, TeacherWeighting, 'weighting', 'LatentTeacherWeighting')

    @property
    def learns(self) -> bool:
        """Whether the rule has trainable parameters."""
        return self._rule.learns

    def requests(self, num_teachers: int) -> Requests:
        """Return what the mixture needs; see :meth:`Method.requests`."""
        by_label = self._rule.learns and self.objective == 'label'
        needs_labels = self._rule.needs_labels or by_label
        return Requests(
            student=(self.embedding_tap,),
            teachers=((),) * num_teachers,
            scores=True,
            labels=True,
            needs_labels=needs_labels,
            label_fix=self._label_fix if needs_labels else '',
            read_only=(self.embedding_tap,),
        )

    @property
    def _label_fix(self) -> str:
        by_divergence = self._rule.learns and self.teaches and not self._rule.needs_labels
        way = "Set objective='paper', or" if by_divergence else 'Set'
        return f"{way} weighting=dict(type='UniformTeacherWeighting')."

    def build(self, student: Probe, teachers: Sequence[TeacherProbe]) -> None:
        """Build the rule for the embedding's size; see :meth:`Method.build`."""
        scores = student.output.scores
        assert scores is not None
        if self.standardize:
            require_standardizable(student)
        embed_dims = check_channels('embedding_tap', None, student.feature(self.embedding_tap))
        self.weighting = build_part(
            self._config,
            TeacherWeighting,
            'weighting',
            'LatentTeacherWeighting',
            num_teachers=len(teachers),
            embed_dims=embed_dims,
        )
        if self.weighting.needs_logits and not (
            scores.per_image and scores.activation == 'softmax'
        ):
            raise ConfigError(
                'weighting.type',
                'needs class scores of whole images under a softmax, but the networks output '
                f'{scores}',
                "Use 'LatentTeacherWeighting', 'UniformTeacherWeighting' or "
                "'RandomTeacherWeighting'.",
                found=type(self.weighting).__name__,
            )
        self.weight_record = WeightRecord(len(teachers), scores.num_classes)

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> Mixture:
        """Mix the teachers' outputs for one batch."""
        embedding = student.feature(self.embedding_tap)
        if embedding.ndim == 4:
            embedding = embedding.amax(dim=(2, 3))
        rows = score_rows(student, teachers, self.locations)
        logits = rows.teachers if rows.images is None else None
        weights = self.weighting(embedding, logits, labels)
        if self.standardize:
            rows = standardized(rows)
        temperature = float(self.temperature)  # a schedule may change it
        target = rows.mixture(weights, temperature)
        learning = {}
        if self.weighting.learns and (self.objective == 'label' or not self.teaches):
            learning['loss_weighting'] = self._learning_loss(rows, weights, target, labels)
        metrics = {'weight_entropy': self.weight_record(weights, labels)}
        detach = self.objective == 'label'
        return Mixture(rows, target, temperature, detach, weights, learning, metrics)

    def _learning_loss(
        self, rows: ScoreRows, weights: Tensor, target: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Return the cross-entropy of the mixture with the label, mean over the batch."""
        if self.objective == 'paper':
            # Nothing gives the weights a gradient; they stay in the graph for DDP.
            return target.sum() * 0.0
        if labels is None:
            problem = 'needs labels, and the batch has none'
            raise ConfigError('objective', problem, self._label_fix, found='label')
        if rows.images is not None or rows.activation == 'sigmoid':
            images = rows.images
            if images is None:  # a classifier with several classes an image
                images = torch.arange(len(labels), device=labels.device)
            return presence_loss(rows.mixture(weights)[:, : labels.shape[1]], images, labels)
        log_mixture = target.clamp_min(torch.finfo(target.dtype).tiny).log()
        if labels.ndim == 1:
            return F.nll_loss(log_mixture, labels)
        return -(labels * log_mixture).sum(dim=1).mean()
