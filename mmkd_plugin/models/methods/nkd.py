"""NKD: normalised soft targets."""

from collections.abc import Mapping
from typing import Any

from mmkd_plugin.models.methods.divergences import Normalised
from mmkd_plugin.models.methods.score_method import ScoreMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class NKD(ScoreMethod):
    r"""Add cross-entropies with the teacher's target class and with its other classes.

    .. math:: L = w \bigl( -p^T_y \log p^S_y
              - \gamma \tau^2 \sum_{k \ne y} \hat p^T_k \log \hat p^S_k \bigr)

    See :func:`~mmkd_plugin.models.losses.nkd_loss`. It needs one label an image, and a classifier
    with a softmax.

    Args:
        temperature: :math:`\tau`, of the other classes.
        gamma: :math:`\gamma`, of the other classes.
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
        >>> NKD()(student, [student], torch.tensor([2]))  # 1/3 log 3 + 1.5 log 2
        {'loss_nkd': tensor(1.4059)}

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
        with Normalized Loss and Customized Soft Labels, ICCV 2023, eq. 7.
    """

    loss_name = 'loss_nkd'

    def __init__(
        self,
        temperature: float = 1.0,
        gamma: float = 1.5,
        loss_weight: float = 1.0,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'paper',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            Normalised(gamma),
            temperature,
            loss_weight,
            ensemble,
            weighting,
            objective,
            embedding_tap,
            locations,
            standardize,
        )
