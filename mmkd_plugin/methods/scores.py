"""Class scores of several networks, side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmkd_plugin.knowledge import Knowledge


def logits_of(knowledge: Knowledge) -> Tensor:
    """The class scores (N, C) in at least float32.

    Raises:
        ValueError: If the network's scores were not recorded.
    """
    if knowledge.logits is None:
        raise ValueError('logits: expected class scores, got a network without; only its taps were recorded')
    return knowledge.logits.to(torch.promote_types(knowledge.logits.dtype, torch.float32))


def stacked_logits(teachers: Sequence[Knowledge]) -> Tensor:
    """All teachers' class scores, (N, T, C)."""
    return torch.stack([logits_of(teacher) for teacher in teachers], dim=1)
