"""Which of a detector's places teach, and how much."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd_plugin.errors import config_key, one_of


class Locations:
    r"""What each place counts in a loss: config key ``locations`` of methods on class scores.

    .. math:: w_a = \frac{v_a\,m_a\,[m_a \ge b]}{\sum_{a'} v_{a'}\,m_{a'}\,[m_{a'} \ge b]}
              \quad (\text{'foreground'}), \qquad w_a = \frac{v_a}{\sum_{a'} v_{a'}} \quad (\text{'uniform'})

    over all places :math:`a` of all images of the batch. :math:`v_a` is 0 in the padding and else 1; :math:`m_a` is the largest
    probability, at temperature 1, that any teacher gives to any class but the background. An image has thousands of places where the
    teachers are sure of background; under ``'uniform'`` the few that show an object would drown among them.

    Args:
        weighting: ``'foreground'`` or ``'uniform'``.
        background: :math:`b`: where every teacher's :math:`m_a` is below it, no detector would report anything, and none is taught;
            what the student sees there is the business of its own loss. 0 keeps all places.

    Raises:
        ValueError: If the word is unknown or the number is not in [0, 1).
    """

    def __init__(self, weighting: str = 'foreground', background: float = 0.05) -> None:
        self.weighting = one_of('weighting', weighting, ('foreground', 'uniform'))
        if (
            not isinstance(background, (int, float))
            or isinstance(background, bool)
            or not 0 <= background < 1
        ):
            raise ValueError(f'background: expected a probability in [0, 1), got {background!r}')
        self.background = background

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> 'Locations':
        """From the config key ``locations``.

        Raises:
            ValueError: If an argument is wrong or unknown.
        """
        if config is not None and not isinstance(config, Mapping):
            raise ValueError(
                f"locations: expected dict(weighting='foreground', background=0.05), got {config!r}"
            )
        with config_key('locations'):
            return cls(**(config or {}))

    def weights(self, confidence: Tensor, valid: Tensor | None) -> Tensor:
        """What every place counts, shaped as ``confidence``: m. They add up to 1, or are all 0 where no place teaches.

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
