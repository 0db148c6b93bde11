"""DIST: match the correlations of class probabilities."""

from collections.abc import Mapping
from typing import Any

from mmkd_plugin.models.methods.divergences import Correlations
from mmkd_plugin.models.methods.score_method import ScoreMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class DIST(ScoreMethod):
    r"""Match the correlations of class probabilities, of each image and of each class.

    .. math:: L = w\,\tau^2 \left( \beta (1 - \bar\rho_{images}) + \gamma (1 - \bar\rho_{classes})
              \right)

    See :func:`~mmkd_plugin.models.losses.dist_loss`. Heads with a sigmoid compare independent
    probabilities. A batch of one image has no correlation: the loss is 0.

    Args:
        temperature: :math:`\tau`, of both sides; the paper has 1 on ImageNet and 4 on CIFAR.
        inter_weight: :math:`\beta`, of the classes of an image.
        intra_weight: :math:`\gamma`, of the images of a class.
        loss_weight: :math:`w`; the paper has 2 on ImageNet.
        ensemble, weighting, objective, embedding_tap, locations, standardize: See
            :class:`~mmkd_plugin.models.methods.SoftTarget`.

    Raises:
        ConfigError: If a number or a word is out of range.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores, NetworkOutput
        >>> logits = torch.tensor([[0.0, 1.0, 3.0], [3.0, 0.0, 1.0]])
        >>> student = NetworkOutput(ClassScores.of_images(logits))
        >>> teacher = NetworkOutput(ClassScores.of_images(logits.flip(0)))
        >>> DIST(inter_weight=0.0)(student, [teacher], None)  # images are exchanged: 1 - (-1)
        {'loss_dist': tensor(2.)}

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, eq. 6-10.
    """

    loss_name = 'loss_dist'

    def __init__(
        self,
        temperature: float = 1.0,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        loss_weight: float = 1.0,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'paper',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            Correlations(inter_weight, intra_weight),
            temperature,
            loss_weight,
            ensemble,
            weighting,
            objective,
            embedding_tap,
            locations,
            standardize,
        )
