"""Weights of the locations of detectors in a loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.errors import ConfigError, construct, mapping, one_of


class LocationWeights:
    r"""Weigh the locations of a batch: config key ``locations`` of methods on class scores.

    .. math:: w_a = \frac{v_a\,m_a\,[m_a \ge b]}{\sum_{a'} v_{a'}\,m_{a'}\,[m_{a'} \ge b]}
              \quad (\text{'foreground'}), \qquad w_a = \frac{v_a}{\sum_{a'} v_{a'}} \quad
              (\text{'uniform'})

    The sums run over all locations :math:`a` of all images of the batch. :math:`v_a` is 0 in the
    padding and else 1. :math:`m_a` is the largest probability, at temperature 1, that any teacher
    outputs for a class that is not the background. An image has thousands of background
    locations; under ``'uniform'`` they outweigh the few that show an object.

    Args:
        weighting: ``'foreground'`` or ``'uniform'``.
        background: :math:`b`. A location where every :math:`m_a` is below it has weight 0. 0 keeps
            all locations.

    Raises:
        ConfigError: If the word is unknown or the number is not in [0, 1).

    Example:
        >>> weights = LocationWeights(background=0.1)
        >>> weights(torch.tensor([[0.05, 0.3, 0.1]]), None)
        tensor([[0.0000, 0.7500, 0.2500]])
    """

    def __init__(self, weighting: str = 'foreground', background: float = 0.05) -> None:
        self.weighting = one_of('weighting', weighting, ('foreground', 'uniform'))
        number = isinstance(background, (int, float)) and not isinstance(background, bool)
        if not number or not 0 <= background < 1:
            raise ConfigError('background', 'must be a probability in [0, 1)', found=background)
        self.background = background

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> 'LocationWeights':
        """Build from the config key ``locations``.

        Raises:
            ConfigError: If an argument is wrong or unknown.
        """
        example = "dict(weighting='foreground', background=0.05)"
        return construct('locations', cls, mapping('locations', config, example))

    def __call__(self, confidence: Tensor, valid: Tensor | None) -> Tensor:
        """Return the weights, (N, A). They add up to 1, or are all 0 if no location counts.

        Args:
            confidence: m, (N, A).
            valid: v, (N, A); None if all are 1.
        """
        weights = torch.ones_like(confidence)
        if self.weighting == 'foreground':
            weights = confidence * (confidence >= self.background)
        if valid is not None:
            weights = weights * valid
        return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
