"""Model outputs: the one message between adapters, distillers and methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmkd_plugin.boxes import (
    BoxOutputs,
    Levels,
    ObjectBoxes,
    common_levels,
    cut,
    show_levels,
)

__all__ = [
    'BoxOutputs',
    'ClassScores',
    'Levels',
    'NetworkOutput',
    'ObjectBoxes',
    'ScoreRows',
    'common_scores',
    'score_rows',
]


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Class scores of a batch, at one or many locations of each image.

    A classifier has one location an image. A dense head has one for each anchor of each cell of
    each level. An RoI head has one for each region, stage by stage. A decoder of queries has one
    for each query.

    Args:
        logits: Scores before the activation, (N, A, C). For a dense head A runs over levels, then
            rows, columns and anchors; for an RoI head over the regions of the image.
        activation: ``'softmax'`` or ``'sigmoid'``.
        background: Whether the last of the C columns is the background.
        levels: (rows, columns, anchors) of each level of a dense head; empty for other heads.
        rois: Regions of each stage of an RoI head, (R, 5): index of the image, then the corners;
            empty for other heads.
        valid: Mask of the locations that count, (N, A): False in the padding, and where there is
            no region. None if all count.
        strides: (across, down) of each level in pixels, where the head states them.
        queries: Number of shared queries; 0 for other heads.
        assigned: Class of the object that the network's own assigner gave to a location, (N, A);
            -1 where it gave none. None unless a method requested it of a dense head that learns.

    Example:
        >>> scores = ClassScores.of_images(torch.zeros(8, 10))
        >>> scores.logits.shape, scores.num_classes, scores.per_image
        (torch.Size([8, 1, 10]), 10, True)
        >>> print(scores)
        10 classes, softmax, one location an image
    """

    logits: Tensor
    activation: str = 'softmax'
    background: bool = False
    levels: Levels = ()
    rois: tuple[Tensor, ...] = ()
    valid: Tensor | None = None
    strides: tuple[tuple[float, float], ...] = ()
    queries: int = 0
    assigned: Tensor | None = None

    @classmethod
    def of_images(cls, logits: Tensor, activation: str = 'softmax') -> 'ClassScores':
        """Wrap a classifier's logits (N, C)."""
        return cls(logits.unsqueeze(1), activation)

    @property
    def per_image(self) -> bool:
        """Whether there is one location an image."""
        return not (self.levels or self.rois or self.queries)

    @property
    def num_classes(self) -> int:
        """Number of classes, without the background."""
        return self.logits.shape[-1] - self.background

    def detach(self) -> 'ClassScores':
        """Return the same scores without gradient."""
        return replace(self, logits=self.logits.detach())

    def confidence(self) -> Tensor:
        """Return the largest probability of a class that is not the background, (N, A)."""
        if self.activation == 'sigmoid':
            return _upcast(self.logits.amax(dim=-1)).sigmoid()
        return _upcast(self.logits).softmax(dim=-1)[..., : self.num_classes].amax(dim=-1)

    def with_classes(self, indices: Sequence[int]) -> 'ClassScores':
        """Return the scores of these classes, in this order; a background column stays."""
        columns = [*indices, self.num_classes] if self.background else list(indices)
        return replace(self, logits=self.logits[..., columns], assigned=None)

    def on_levels(self, levels: Levels) -> 'ClassScores':
        """Cut each level to the given rows and columns, from the top left.

        Two networks may pad a batch differently, but both pad on the right and at the bottom.
        """
        if levels == self.levels:
            return self
        valid, assigned = (
            None if one is None else cut(one, self.levels, levels)
            for one in (self.valid, self.assigned)
        )
        logits = cut(self.logits, self.levels, levels)
        return replace(self, logits=logits, levels=levels, valid=valid, assigned=assigned)

    def __str__(self) -> str:
        background = ' with background' if self.background else ''
        head = f'{self.num_classes} classes, {self.activation}{background}'
        if self.per_image:
            return f'{head}, one location an image'
        if self.rois:
            return f"{head}, {len(self.rois)} stage(s) of the student's regions"
        if self.queries:
            return f'{head}, {self.queries} shared queries'
        each = (f'{x:g}' if x == y else f'{x:g}x{y:g}' for x, y in self.strides)
        strides = f', strides {", ".join(each)}' if self.strides else ''
        return f'{head}, {show_levels(self.levels)}{strides}'


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """Outputs of one network for one batch.

    Args:
        scores: Class scores; None if no method requested them.
        features: Recorded tensors by tap, such as ``{'backbone.layer3': (N, C, H, W)}``, in
            execution order.
        boxes: Boxes at the locations of the class scores; None if no method requested them.
        objects: Boxes of the annotated objects; None if no method requested them.

    Example:
        >>> output = NetworkOutput(features={'neck': torch.zeros(8, 64)})
        >>> output.feature('neck').shape
        torch.Size([8, 64])
    """

    scores: ClassScores | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    boxes: BoxOutputs | None = None
    objects: ObjectBoxes | None = None

    @property
    def rois(self) -> tuple[Tensor, ...]:
        """Regions of the RoI head by stage; empty for other networks."""
        return () if self.scores is None else self.scores.rois

    def feature(self, tap: str) -> Tensor:
        """Return what ``tap`` recorded.

        Raises:
            KeyError: If the tap was not requested.
        """
        if tap not in self.features:
            raise KeyError(f'{tap!r} was not requested; the requested taps are {[*self.features]}')
        return self.features[tap]

    def tensors(self) -> dict[str, Tensor]:
        """Return what methods compare: features by tap, ``'class scores'`` and ``'boxes'``."""
        found = dict(self.features)
        if self.scores is not None:
            found['class scores'] = self.scores.logits
        if self.boxes is not None:
            found['boxes'] = self.boxes.values
        return found

    def float(self) -> 'NetworkOutput':
        """Return the same outputs in float32, where they are in half precision."""
        return NetworkOutput(
            self.scores and replace(self.scores, logits=_upcast(self.scores.logits)),
            {tap: _upcast(value) for tap, value in self.features.items()},
            self.boxes and replace(self.boxes, values=_upcast(self.boxes.values)),
            self.objects,
        )

    def detach(self) -> 'NetworkOutput':
        """Return the same outputs without gradient."""
        features = {tap: value.detach() for tap, value in self.features.items()}
        return NetworkOutput(
            None if self.scores is None else self.scores.detach(),
            features,
            None if self.boxes is None else self.boxes.detach(),
            self.objects,
        )


@dataclass(frozen=True, eq=False)
class ScoreRows:
    """Class scores of a student and its teachers, one row a location.

    Args:
        student: Logits (R, C), in float32 or wider.
        teachers: Logits (R, T, C), in float32 or wider, without gradient.
        activation: ``'softmax'`` or ``'sigmoid'``.
        images: Index of each row's image, (R,); None where row i is image i.
        weights: Weight of each row, (R,); None for 1/R each.
        confidence: Largest probability that a teacher outputs for a class that is not the
            background, (R,); None where row i is image i.
    """

    student: Tensor
    teachers: Tensor
    activation: str
    images: Tensor | None = None
    weights: Tensor | None = None
    confidence: Tensor | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        """Apply the activation to logits (…, C)."""
        return logits.sigmoid() if self.activation == 'sigmoid' else logits.softmax(dim=-1)

    def mixture(self, weights: Tensor, temperature: float = 1.0) -> Tensor:
        """Mix the teachers' softened probabilities by the weights of each image.

        Args:
            weights: Teacher weights, (N, T).
            temperature: Divides the logits.

        Returns:
            (R, C).
        """
        of_rows = weights if self.images is None else weights[self.images]
        return (of_rows.unsqueeze(2) * self.probabilities(self.teachers / temperature)).sum(dim=1)


def score_rows(
    student: NetworkOutput,
    teachers: Sequence[NetworkOutput],
    location_weights: Callable[[Tensor, Tensor | None], Tensor],
) -> ScoreRows:
    """Put the class scores of several networks side by side.

    Args:
        student: Output with class scores.
        teachers: Outputs with class scores of the same layout. Levels of differently padded
            batches are cut to the area that all networks share.
        location_weights: Maps the teachers' confidence (N, A) and the valid mask to weights (N, A).
            Locations of weight 0 give no row. Not called for classifiers.
    """
    own, *others = common_scores(student, teachers)
    if own.per_image:
        stacked = torch.stack([_upcast(one.logits.detach()[:, 0]) for one in others], dim=1)
        return ScoreRows(_upcast(own.logits[:, 0]), stacked, own.activation)
    with torch.no_grad():
        confidence = torch.stack([one.confidence() for one in others]).amax(dim=0)
        weights = location_weights(confidence, own.valid)
        images, locations = weights.nonzero(as_tuple=True)
    return ScoreRows(
        _upcast(own.logits[images, locations]),
        torch.stack([_upcast(one.logits.detach()[images, locations]) for one in others], dim=1),
        own.activation,
        images,
        weights[images, locations],
        confidence[images, locations],
    )


def common_scores(student: NetworkOutput, teachers: Sequence[NetworkOutput]) -> list[ClassScores]:
    """Return the class scores of a student and its teachers, on the levels that all share.

    Raises:
        ValueError: If class scores were not requested of a network.
    """
    found = []
    for output in (student, *teachers):
        if output.scores is None:
            raise ValueError('class scores were not requested of this network')
        found.append(output.scores)
    if all(one.levels == found[0].levels for one in found):
        return found
    levels = common_levels(*(one.levels for one in found))
    return [one.on_levels(levels) for one in found]


def _upcast(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
