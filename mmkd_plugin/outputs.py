"""What one network said of one batch: the only thing that a method ever sees of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassScores:
    """A detector's class scores at all places of each image: locations and anchors of every level, or regions of interest.

    Args:
        logits: Before the activation, (N, A, C). Of a dense head A runs over levels, then rows, columns and anchors; of an RoI head
            over the image's regions, stage by stage.
        activation: ``'sigmoid'``, each class by itself; or ``'softmax'``, where the last of the C columns is the background.
        levels: Rows, columns and anchors of each level of a dense head; empty for an RoI head.
        rois: Of an RoI head: each stage's regions (R, 5), number of the image and corners; empty for a dense head.
        valid: (N, A), False where a place lies in the padding or stands for no region; None if all are valid.
    """

    logits: Tensor
    activation: str
    levels: tuple[tuple[int, int, int], ...] = ()
    rois: tuple[Tensor, ...] = ()
    valid: Tensor | None = None

    @property
    def classes(self) -> int:
        """How many classes there are beside the background."""
        return self.logits.shape[-1] - (self.activation == 'softmax')

    def detach(self) -> 'ClassScores':
        """The same without gradient."""
        return replace(self, logits=self.logits.detach())

    def with_classes(self, indices: Sequence[int]) -> 'ClassScores':
        """The scores of these classes in this order; a background stays."""
        columns = [*indices, self.classes] if self.activation == 'softmax' else list(indices)
        return replace(self, logits=self.logits[..., columns])

    def on_levels(self, levels: tuple[tuple[int, int, int], ...]) -> 'ClassScores':
        """The places that levels of at most this size have: images are padded on the right and at the bottom alone."""
        if levels == self.levels:
            return self
        valid = None if self.valid is None else self._cut(self.valid, levels)
        return replace(self, logits=self._cut(self.logits, levels), levels=levels, valid=valid)

    def _cut(self, values: Tensor, levels: tuple[tuple[int, int, int], ...]) -> Tensor:
        parts = values.split(
            [rows * columns * anchors for rows, columns, anchors in self.levels], dim=1
        )
        kept = [
            part.unflatten(1, own)[:, :rows, :columns].flatten(1, 3)
            for part, own, (rows, columns, _) in zip(parts, self.levels, levels, strict=True)
        ]
        return torch.cat(kept, dim=1)

    def __str__(self) -> str:
        head = f'{self.classes} classes, {self.activation}'
        if not self.levels:
            return f"{head} with background at {len(self.rois)} stage(s) of the student's regions"
        background = ' with background' if self.activation == 'softmax' else ''
        sizes = ', '.join(f'{rows}x{columns}x{anchors}' for rows, columns, anchors in self.levels)
        return (
            f'{head}{background} at {len(self.levels)} levels of (rows x columns x anchors) {sizes}'
        )


@dataclass(frozen=True)
class Knowledge:
    """One network's answer to one batch.

    Args:
        logits: Class scores before the softmax, (N, C); of a detector :class:`ClassScores`; None when no method asked for them.
        features: What the taps recorded, by tap, e.g. ``{'backbone.layer3': (N, C, H, W)}``.
        norms: Of a teacher's probe alone: scale and shift, (C,) each, of the normalisation layers that a method asked for, by path.
    """

    logits: Tensor | ClassScores | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    norms: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def rois(self) -> tuple[Tensor, ...]:
        """The regions that an RoI head was asked about, which its teachers' are asked about as well; of other networks none."""
        return self.logits.rois if isinstance(self.logits, ClassScores) else ()
