"""Soft targets of one teacher, of an ensemble, or of teachers that are weighed for each image."""

from collections.abc import Mapping
from typing import Any

from mmkd_plugin.models.methods.divergences import KL
from mmkd_plugin.models.methods.score_method import ScoreMethod
from mmkd_plugin.registry import MODELS


@MODELS.register_module()
class SoftTarget(ScoreMethod):
    r"""Match the teachers' softened class probabilities.

    .. math:: L = w\,\tau^2\,\mathrm{KL}(\bar p \,\|\, \mathrm{softmax}(z_S / \tau))

    The hard-label term is the student's own loss, weighted by the distiller's ``task_weight``.

    Args:
        temperature: :math:`\tau`, of both sides.
        loss_weight: :math:`w`.
        ensemble: How several teachers become :math:`\bar p`: the ``'arithmetic'`` mean of their
            probabilities, or the normalised ``'geometric'`` one (of their mean logits).
        weighting: Rule that weighs the teachers for each image, such as
            ``dict(type='LatentTeacherWeighting')``, in place of a mean.
        objective: How a weighting learns; see
            :class:`~mmkd_plugin.models.methods.teacher_mixture.TeacherMixture`.
        embedding_tap: The student's embedding, for a weighting; found by default.
        locations: Weights of the locations of detectors:
            ``dict(weighting='foreground', background=0.05)``, see
            :class:`~mmkd_plugin.models.methods.location_weights.LocationWeights`. In heads with a
            sigmoid every class is a distribution of two outcomes.
        standardize: Whether the logits of both sides are first standardised over the classes, by
            :func:`~mmkd_plugin.models.losses.standardize_logits`. Its paper has ``temperature=2.0``
            and ``loss_weight=9.0`` beside ``task_weight=0.1``. For heads with a softmax.

    Raises:
        ConfigError: If a number or a word is out of range, or ``ensemble='geometric'`` stands
            beside a weighting, which mixes probabilities.

    Example:
        >>> import torch
        >>> from mmkd_plugin.outputs import ClassScores, NetworkOutput
        >>> student = NetworkOutput(ClassScores.of_images(torch.zeros(1, 2)))
        >>> teacher = NetworkOutput(ClassScores.of_images(torch.tensor([[9.0, 1.0]]).log()))
        >>> SoftTarget(temperature=2.0)(student, [teacher], None)  # 4 KL((3/4, 1/4) || (1/2, 1/2))
        {'loss_kd': tensor(0.5232)}

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, sections 2 and 5;
        Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024 (``standardize``).
    """

    loss_name = 'loss_kd'

    def __init__(
        self,
        temperature: float = 4.0,
        loss_weight: float = 1.0,
        ensemble: str = 'arithmetic',
        weighting: Mapping[str, Any] | None = None,
        objective: str = 'paper',
        embedding_tap: str | None = None,
        locations: Mapping[str, Any] | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__(
            KL(),
            temperature,
            loss_weight,
            ensemble,
            weighting,
            objective,
            embedding_tap,
            locations,
            standardize,
        )
