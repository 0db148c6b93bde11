"""DKD: decoupled soft targets."""

from collections.abc import Mapping
from typing import Any

from mmkd_plugin.models.methods.divergences import Decoupled
from mmkd_plugin.models.methods.score_method import ScoreMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class DKD(ScoreMethod):
    r"""Match the target class and the other classes with separate weights.

    .. math:: L = w\,\tau^2 (\alpha\,TCKD + \beta\,NCKD)

    See :func:`~mmkd_plugin.models.losses.dkd_loss`. It needs one label an image, and a classifier
    with a softmax. Its paper lets the weight grow over 20 epochs:
    ``loss_weight=dict(type='LinearSchedule', start=0.0, stop=1.0, end=20)``.

    Args:
        temperature: :math:`\tau`, of both sides; the paper has 1 on ImageNet.
        alpha: :math:`\alpha`, of the target class.
        beta: :math:`\beta`, of the other classes; the paper has 2, 6 or 8 by pair of networks, and
            0.5 on ImageNet.
        loss_weight: :math:`w`.
        ensemble, weighting, objective, embedding_tap, locations, standardize: See
            :class:`~mmkd_plugin.models.methods.SoftTarget`.

    Raises:
        ConfigError: If a number or a word is out of range, or the model is no classifier
            with a softmax.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores, NetworkOutput
        >>> student = NetworkOutput(ClassScores.of_images(torch.zeros(1, 3)))
        >>> teacher = NetworkOutput(ClassScores.of_images(torch.tensor([[0.0, 0.0, 4.0]])))
        >>> DKD(temperature=1.0)(student, [teacher], torch.tensor([2]))
        {'loss_dkd': tensor(0.9213)}

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, eq. 7.
    """

    loss_name = 'loss_dkd'

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        loss_weight: float = 1.0,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'paper',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            Decoupled(alpha, beta),
            temperature,
            loss_weight,
            ensemble,
            weighting,
            objective,
            embedding_tap,
            locations,
            standardize,
        )
