"""Class scores of several networks, side by side: of a classifier a row an image, of a detector a row a place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mmkd_plugin.models.losses import binary_soft_target_kl, soft_target_kl
from mmkd_plugin.models.methods.locations import Locations
from mmkd_plugin.outputs import ClassScores, Knowledge


@dataclass(frozen=True, eq=False)
class ComparedScores:
    """Rows that stand for the same thing in every network.

    Args:
        student: (R, C), in at least float32.
        teachers: (R, T, C), without gradient.
        activation: ``'softmax'`` or ``'sigmoid'``.
        images: The number of the image that each row is of, (R,); None where the rows are the images.
        weights: What each row counts, (R,); None for 1/R each.
        confidence: The teachers' largest probability of any class but the background, (R,); None where the rows are the images.
    """

    student: Tensor
    teachers: Tensor
    activation: str = 'softmax'
    images: Tensor | None = None
    weights: Tensor | None = None
    confidence: Tensor | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of logits (…, C), softened already."""
        return logits.sigmoid() if self.activation == 'sigmoid' else logits.softmax(dim=-1)

    def mixture(self, weights: Tensor, temperature: float = 1.0) -> Tensor:
        """The teachers' softened probabilities, mixed by the weights (N, T) of each row's image: (R, C)."""
        of_rows = weights if self.images is None else weights[self.images]
        return (of_rows.unsqueeze(2) * self.probabilities(self.teachers / temperature)).sum(dim=1)

    def divergence(self, target: Tensor, temperature: float) -> Tensor:
        """The student's from softened targets (R, C): a scalar, times the squared temperature."""
        if self.activation == 'sigmoid':
            return binary_soft_target_kl(self.student, target, temperature, self.weights)
        return soft_target_kl(self.student, target, temperature, weights=self.weights)


def compared_scores(
    student: Knowledge, teachers: Sequence[Knowledge], locations: Locations
) -> ComparedScores:
    """The rows of a student and its teachers; of a detector those places alone that teach.

    Args:
        student: With class scores.
        teachers: With class scores of the same layout; levels of differently padded images are cut to what all have.
        locations: Which places teach, and how much.
    """
    if not isinstance(student.logits, ClassScores):
        return ComparedScores(logits_of(student), stacked_logits(teachers))
    scores = _cut_alike([cast(ClassScores, one.logits) for one in (student, *teachers)])
    own, others = scores[0], scores[1:]
    with torch.no_grad():
        confidence = torch.stack([foreground(one) for one in others]).amax(dim=0)
        weights = locations.weights(confidence, own.valid)
        images, places = weights.nonzero(as_tuple=True)
    return ComparedScores(
        _wide(own.logits[images, places]),
        torch.stack([_wide(one.logits.detach()[images, places]) for one in others], dim=1),
        own.activation,
        images,
        weights[images, places],
        confidence[images, places],
    )


def foreground(scores: ClassScores) -> Tensor:
    """The largest probability of any class but the background, (N, A)."""
    if scores.activation == 'sigmoid':
        return _wide(scores.logits.amax(dim=-1)).sigmoid()
    return _wide(scores.logits).softmax(dim=-1)[..., :-1].amax(dim=-1)


def logits_of(knowledge: Knowledge) -> Tensor:
    """An image's class scores (N, C) in at least float32.

    Raises:
        ValueError: If the network's scores were not recorded, or are a detector's.
    """
    if not isinstance(knowledge.logits, Tensor):
        found = (
            'a detector'
            if isinstance(knowledge.logits, ClassScores)
            else 'a network without; only its taps were recorded'
        )
        raise ValueError(f'logits: expected class scores of images, got {found}')
    return _wide(knowledge.logits)


def stacked_logits(teachers: Sequence[Knowledge]) -> Tensor:
    """All teachers' class scores of images, (N, T, C)."""
    return torch.stack([logits_of(teacher) for teacher in teachers], dim=1)


def classes_of(knowledge: Knowledge) -> int:
    """How many classes the scores are about, without a background."""
    return (
        knowledge.logits.classes
        if isinstance(knowledge.logits, ClassScores)
        else logits_of(knowledge).shape[-1]
    )


def _cut_alike(scores: Sequence[ClassScores]) -> list[ClassScores]:
    levels = tuple(
        (min(rows), min(columns), anchors[0])
        for rows, columns, anchors in (
            zip(*same, strict=True) for same in zip(*(one.levels for one in scores), strict=True)
        )
    )
    return [one.on_levels(levels) for one in scores]


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
