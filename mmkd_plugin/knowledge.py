"""What one network said of one batch: the only thing that a method ever sees of a network."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Knowledge:
    """One network's answer to one batch.

    Args:
        logits: Class scores before the softmax, (N, C); None when no method asked for them.
        features: What the taps recorded, by tap, e.g. ``{'backbone.layer3': (N, C, H, W)}``.
        norms: Of a teacher's probe alone: scale and shift, (C,) each, of the normalisation layers that a method asked for, by path.
    """

    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    norms: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
