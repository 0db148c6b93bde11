"""The loss of rows against the outputs that they were made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

#: Fields of which the largest counts, and not the sum.
_LARGEST = ('largest', 'features')


@dataclass
class Truncation:
    """Differences between outputs and what a row returns of them, measured while writing.

    Args:
        largest: Largest difference of a probability, at temperature 1.
        total: Sum of the differences of all probabilities.
        count: Number of probabilities compared.
        images: Number of images.
        images_cut: Number of images with more locations than a row holds.
        locations: Number of locations at or above ``background``.
        locations_cut: Number of them that were left out.
        weight: Sum of their largest probabilities: what foreground weighting is proportional to.
        weight_cut: The part of it that was left out.
        features: Largest difference of a feature, relative to the largest value of its batch.

    Example:
        >>> print(Truncation(largest=2e-4, total=0.01, count=1000, images=10))
        10 images: probabilities differ by at most 0.0002, by 1e-05 on average
        >>> print(Truncation(images=10, features=2e-4))
        10 images: features differ by at most 0.0002 of the largest
    """

    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    images: int = 0
    images_cut: int = 0
    locations: int = 0
    locations_cut: int = 0
    weight: float = 0.0
    weight_cut: float = 0.0
    features: float = 0.0

    @property
    def mean(self) -> float:
        """Mean difference of a probability."""
        return self.total / max(self.count, 1)

    def compare(self, expected: Tensor, found: Tensor) -> None:
        """Add the differences of two tensors of probabilities."""
        if expected.numel():
            difference = (expected - found).abs()
            self.largest = max(self.largest, float(difference.max()))
            self.total += float(difference.sum(dtype=torch.float64))
            self.count += difference.numel()

    def compare_feature(self, expected: Tensor, found: Tensor) -> None:
        """Add the difference of a feature of one batch."""
        if expected.numel():
            largest, difference = _largest(expected), _largest(expected - found)
            self.features = max(self.features, difference / largest if largest else 0.0)

    def add(self, other: 'Truncation') -> None:
        """Add what another process measured."""
        for one in fields(self):
            own, others = getattr(self, one.name), getattr(other, one.name)
            setattr(self, one.name, max(own, others) if one.name in _LARGEST else own + others)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Any) -> 'Truncation':
        """Read what :meth:`to_json` returned.

        Raises:
            ValueError: If it is anything else.
        """
        if not isinstance(saved, Mapping):
            raise ValueError('no truncation')
        kinds: dict[str, Any] = {one.name: type(one.default) for one in fields(cls)}
        if saved.keys() != kinds.keys():
            raise ValueError('no truncation')
        return cls(**{name: kind(saved[name]) for name, kind in kinds.items()})

    def __str__(self) -> str:
        parts = []
        if self.count:
            parts.append(
                f'probabilities differ by at most {self.largest:.2g}, by {self.mean:.2g} on average'
            )
        if self.features:
            parts.append(f'features differ by at most {self.features:.2g} of the largest')
        text = f'{self.images:,} images: {", ".join(parts) or "no difference"}'
        if not self.locations:
            return text
        return (
            f'{text}; {self.locations / max(self.images, 1):.0f} locations an image, '
            f'{self.locations_cut:,} of {self.locations:,} did not fit into {self.images_cut:,} '
            f'images, {100 * self.weight_cut / max(self.weight, 1e-30):.2g}% of the weight'
        )


def _largest(values: Tensor) -> float:
    """Return the largest absolute value, in one pass without a copy."""
    low, high = values.aminmax()
    return max(-float(low), float(high))
