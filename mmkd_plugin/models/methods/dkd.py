"""DKD: the label's probability and the other classes, each with a weight of its own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmkd_plugin.errors import non_negative_number
from mmkd_plugin.models.losses.dkd import dkd_rows
from mmkd_plugin.models.losses.functional import weighted_mean
from mmkd_plugin.models.methods.logit_method import LogitMethod, Targets, labels_of
from mmkd_plugin.outputs import ScoreRows
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class DKD(LogitMethod):
    r"""Match the label's probability, and the distribution of the other classes.

    .. math:: L = w\,\tau^2 \bigl( \alpha\,KL(b^T \| b^S) + \beta\,KL(\hat p^T \| \hat p^S) \bigr)

    as :func:`~mmkd_plugin.models.losses.dkd_loss`. It needs one label an image. For detectors with
    a softmax, the class that the targets find most probable at a location takes its place.

    Args:
        temperature: :math:`\tau`: 4 on CIFAR-100, 1 on ImageNet.
        loss_weight: :math:`w`. The authors warm it up over 20 epochs:
            ``dict(type='LinearSchedule', start=0.05, stop=1.0, end=19)``.
        alpha: :math:`\alpha`.
        beta: :math:`\beta`: 8, 6 or 2 by pair on CIFAR-100, 0.5 on ImageNet.
        standardize, ensemble, weighting, objective, embedding_tap, locations: As in
            :class:`~mmkd_plugin.models.methods.logit_method.LogitMethod`.

    Raises:
        ConfigError: If a number is out of range, or the networks have a sigmoid or one class; in
            training, if the batch has no class of each image.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores, NetworkOutput
        >>> student = NetworkOutput(ClassScores.of_images(torch.zeros(1, 3)))
        >>> teacher = NetworkOutput(ClassScores.of_images(torch.tensor([[0.0, 0.0, 1.0]])))
        >>> DKD(temperature=1.0, alpha=0.0, beta=2.0)(student, [teacher], torch.tensor([2]))
        {'loss_dkd': tensor(0.)}

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022.
    """

    loss_name = 'loss_dkd'
    uses_labels = True

    def __init__(
        self,
        temperature: float = 4.0,
        loss_weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
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
        self.alpha = non_negative_number('alpha', alpha)
        self.beta = non_negative_number('beta', beta)

    def divergence(self, rows: ScoreRows, targets: Targets, labels: Tensor | None) -> Tensor:
        temperature = float(self.temperature)  # a schedule may change it
        losses = dkd_rows(
            rows.student / temperature,
            targets(temperature),
            labels_of('DKD', rows, targets, labels),
            float(self.alpha),
            float(self.beta),
        )
        return temperature**2 * weighted_mean('DKD', losses, rows.weights)
