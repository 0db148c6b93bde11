"""The part of a teacher's tensor that a method reads: a factor, an attention map."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reduction:
    """A fixed function of a frozen teacher's tensor; a store keeps its result alone.

    Args:
        tap: Tap of the teacher.
        name: Name of the result, with all that it depends on, such as the hash of its weights.
        function: Computes it, without gradient.

    Example:
        >>> Reduction('backbone.layer3', 'attention', lambda value: value).feature
        'backbone.layer3 | attention'
    """

    tap: str
    name: str
    function: Callable[[Tensor], Tensor]

    @property
    def feature(self) -> str:
        """Its name among the features of an output."""
        return f'{self.tap}{_BETWEEN}{self.name}'


def tap_of(feature: str) -> str:
    """Return the tap that a feature is, or is computed from.

    Example:
        >>> tap_of('backbone.layer3 | attention'), tap_of('neck[0]')
        ('backbone.layer3', 'neck[0]')
    """
    return feature.partition(_BETWEEN)[0]


_BETWEEN = ' | '
