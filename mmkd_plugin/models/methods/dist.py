"""DIST: correlations between class probabilities, in place of their divergence."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmkd_plugin.adapters.probe import Probe
from mmkd_plugin.errors import ConfigError, non_negative_number, one_of
from mmkd_plugin.models.losses.dist import dist_correlation
from mmkd_plugin.models.methods.cell_rows import cell_rows, require_cells
from mmkd_plugin.models.methods.log_targets import log_targets, require_standardizable
from mmkd_plugin.models.methods.logit_method import LogitMethod, Targets
from mmkd_plugin.models.methods.teacher_mixture import Mixture
from mmkd_plugin.outputs import NetworkOutput, ScoreRows
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class DIST(LogitMethod):
    r"""Match the order of the classes of an image, and of the images of a class.

    .. math:: L = w\,\tau^2 \bigl( \beta\,(1 - \bar\rho_{images}) + \gamma\,(1 - \bar\rho_{classes})
              \bigr)

    with the mean Pearson correlations of :func:`~mmkd_plugin.models.losses.dist_loss`. For
    detectors the rows are the locations that teach, with their weights. Heads with a sigmoid, such
    as RetinaNet and multi-label classifiers, are compared by the sigmoid of each class, as in the
    authors' code. A batch of one image has a loss of 0, which is logged once.

    Args:
        temperature: :math:`\tau`: 1 on ImageNet, 4 on CIFAR-100.
        loss_weight: :math:`w`: 2 on ImageNet, beside the labels with weight 1.
        inter_weight: :math:`\beta`.
        intra_weight: :math:`\gamma`.
        standardize, ensemble, weighting, objective, embedding_tap, locations: As in
            :class:`~mmkd_plugin.models.methods.logit_method.LogitMethod`.
        rows: For dense heads with a sigmoid: ``'locations'`` compares the locations of all levels
            together. ``'cells'`` is the authors' layout: one loss a level, added up, whose rows are
            the cells and whose columns are the classes of all anchors.

    Raises:
        ConfigError: If a number or a word is out of range, or the networks have one class; with a
            sigmoid, unless ``inter_weight=0``.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores, NetworkOutput
        >>> logits = torch.randn(8, 10)
        >>> student = NetworkOutput(ClassScores.of_images(logits + 3.0))
        >>> teacher = NetworkOutput(ClassScores.of_images(logits))
        >>> losses = DIST()(student, [teacher], None)
        >>> bool(losses['loss_dist'].abs() < 1e-5)
        True

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022;
        github.com/hunto/MasKD has the authors' RetinaNet, whose rows are cells of equal weight.
    """

    loss_name = 'loss_dist'

    def __init__(
        self,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        standardize: bool = False,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'label',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
        rows: str = 'locations',
    ) -> None:
        super().__init__(
            temperature,
            loss_weight,
            standardize,
            ensemble,
            weighting,
            objective,
            embedding_tap,
            locations,
        )
        self.inter_weight = non_negative_number('inter_weight', inter_weight)
        self.intra_weight = non_negative_number('intra_weight', intra_weight)
        self.rows = one_of('rows', rows, ('locations', 'cells'))
        self.reads_every_location = self.rows == 'cells'
        self._logged = False

    def require_distribution(self, student: Probe) -> None:
        """Refuse a single class, which has no relation between classes."""
        scores = student.output.scores
        assert scores is not None
        if self.standardize:
            require_standardizable(student)
        if self.rows == 'cells':
            require_cells(student)
        anchors = [level[2] for level in scores.levels] if self.rows == 'cells' else [1]
        if scores.logits.shape[-1] * min(anchors) > 1:
            return
        fix = "Use 'SoftTarget', or for dense detectors 'BCKD'."
        if scores.activation == 'sigmoid':
            if not self.inter_weight:
                return
            fix = f'Set inter_weight=0, which compares the rows of the class alone. {fix}'
        raise ConfigError(
            'type',
            f'correlates two or more classes, but the networks output {scores}',
            fix,
            found=type(self).__name__,
        )

    def forward(
        self, student: NetworkOutput, teachers: Sequence[NetworkOutput], labels: Tensor | None
    ) -> dict[str, Tensor]:
        if self.rows == 'locations' or self.mixture is not None:
            return super().forward(student, teachers, labels)
        return {self.loss_name: self.loss_weight * self._of_cells(student, teachers)}

    def mixed_divergence(
        self,
        mixed: Mixture,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        labels: Tensor | None,
    ) -> Tensor:
        if self.rows == 'locations':
            return super().mixed_divergence(mixed, student, teachers, labels)
        return self._of_cells(student, teachers, mixed.teaching_weights)

    def _of_cells(
        self,
        student: NetworkOutput,
        teachers: Sequence[NetworkOutput],
        weights: Tensor | None = None,
    ) -> Tensor:
        """Add up the losses of all levels, whose rows are cells."""
        losses = []
        for rows in cell_rows(student, teachers, self.locations):
            targets = partial(log_targets, rows, weights=weights, ensemble=self.ensemble)
            losses.append(self.divergence(rows, targets, None))
        return torch.stack(losses).sum()

    def divergence(self, rows: ScoreRows, targets: Targets, labels: Tensor | None) -> Tensor:
        if len(rows.student) < 2 and not self._logged:
            self._logged = True
            print_log(
                'DIST: fewer than two rows, such as images of a batch, have no relations between '
                'them, so their loss is 0',
                logger='current',
                level=30,
            )
        temperature = float(self.temperature)  # a schedule may change it
        loss = dist_correlation(
            rows.student / temperature,
            targets(temperature),
            float(self.inter_weight),
            float(self.intra_weight),
            rows.weights,
            rows.activation,
        )
        return temperature**2 * loss
