"""NKD: soft cross-entropies of the label and among the other classes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses.functional import weighted_mean
from mmkd_plugin.models.losses.nkd import nkd_rows
from mmkd_plugin.models.methods.logit_method import LogitMethod, Targets, labels_of
from mmkd_plugin.outputs import ScoreRows
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class NKD(LogitMethod):
    r"""Follow the teacher's confidence in the label, and its distribution of the other classes.

    .. math:: L = -w \bigl( p^T_y \log p^S_y + \gamma\,\tau^2 \sum_{k \ne y}
              \hat p^T_k \log \hat p^S_k \bigr)

    as :func:`~mmkd_plugin.models.losses.nkd_loss`. It needs one label an image. For detectors with
    a softmax, the class that the targets find most probable at a location takes its place. The loss
    is a cross-entropy, so a weighting cannot learn from it: ``objective='label'``.

    Args:
        temperature: :math:`\tau`, of the other classes.
        loss_weight: :math:`w`.
        gamma: :math:`\gamma`.
        standardize, ensemble, weighting, objective, embedding_tap, locations: As in
            :class:`~mmkd_plugin.models.methods.logit_method.LogitMethod`.

    Raises:
        ConfigError: If a number is out of range, the networks have a sigmoid or one class, or a
            weighting would learn from the loss; in training, if the batch has no class of each
            image.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores, NetworkOutput
        >>> output = NetworkOutput(ClassScores.of_images(torch.zeros(1, 3)))
        >>> NKD(gamma=1.0)(output, [output], torch.tensor([0]))  # log(3) / 3 + log(2)
        {'loss_nkd': tensor(1.0594)}

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
        with Normalized Loss and Customized Soft Labels, ICCV 2023.
    """

    loss_name = 'loss_nkd'
    uses_labels = True
    teaches_weighting = False

    def __init__(
        self,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        gamma: float = 1.5,
        standardize: bool = False,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'label',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
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
        self.gamma = non_negative_number('gamma', gamma)

    def divergence(self, rows: ScoreRows, targets: Targets, labels: Tensor | None) -> Tensor:
        temperature = float(self.temperature)  # a schedule may change it
        losses = nkd_rows(
            rows.student,
            targets(1.0),
            targets(temperature),
            labels_of('NKD', rows, targets, labels),
            temperature,
            float(self.gamma),
        )
        return weighted_mean('NKD', losses, rows.weights)
