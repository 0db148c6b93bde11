"""Outputs of the score reader of a dense head, checked against the form that the head states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkd_plugin.anchors import DeltaCoder
from mmkd_plugin.boxes import KINDS
from mmkd_plugin.errors import ConfigError

_FIX = 'Use methods on taps alone, or register another score reader for the head.'


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """Class scores and boxes that a score reader found in what a head returns.

    Args:
        scores: Logits, one tensor (N, anchors * C, H, W) a level.
        boxes: One tensor a level, (N, anchors * 4, H, W) or, for distributions,
            (N, anchors * 4 * bins, H, W); None if they are unknown.
        kind: Kind of the boxes: ``'delta'``, ``'distance'`` or ``'distribution'``; see
            :class:`~mmkd_plugin.boxes.BoxOutputs`.
        coding: How deltas are coded, in words; boxes of other words are not comparable.
        coder: How deltas are decoded; None if no method may decode them.
    """

    scores: Sequence[Tensor]
    boxes: Sequence[Tensor] | None = None
    kind: str | None = None
    coding: str = ''
    coder: DeltaCoder | None = None

    @classmethod
    def read(cls, read: Any, head: nn.Module, output: Any) -> 'HeadOutput':
        """Call a score reader; a plain list means class scores alone.

        Raises:
            ConfigError: If it fails, or returns something else.
        """
        name = type(head).__name__
        try:
            found = read(head, output)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                '',
                f'the score reader of {name} fails on what the head returns: '
                f'{type(error).__name__}: {error}',
                _FIX,
                found=type(output).__name__,
            ) from error
        if isinstance(found, (list, tuple)):
            found = cls(list(found))
        if not isinstance(found, cls):
            raise ConfigError(
                '',
                f'the score reader of {name} must return a list of tensors, or a HeadOutput',
                found=type(found).__name__,
            )
        return found

    def require_scores(
        self, head: nn.Module, width: int, stated: Sequence[int] = ()
    ) -> list[Tensor]:
        """Return the class scores, if they have the form that the head states.

        Args:
            head: The head.
            width: Number of channels of an anchor.
            stated: Number of anchors of each level; empty if the head states none.

        Raises:
            ConfigError: If one is no map, or has other channels than anchors times classes.
        """
        scores = list(self.scores)
        name = type(head).__name__
        stated = stated if len(stated) == len(scores) else ()
        for level, one in enumerate(scores):
            if not isinstance(one, Tensor) or one.ndim != 4:
                raise ConfigError(
                    '',
                    f'class scores of {name} must be maps (N, anchors * C, H, W), one a level',
                    _FIX,
                    found=tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__,
                )
            channels = one.shape[1]
            expected = stated[level] * width if stated else channels
            if channels == 0 or channels % width or channels != expected:
                anchors = f'{stated[level]} anchors' if stated else 'a number of anchors'
                raise ConfigError(
                    '',
                    f'class scores of {name} must have {anchors} times {width} channels at level '
                    f'{level}',
                    _FIX,
                    found=tuple(one.shape),
                )
        if not scores:
            raise ConfigError('', f'the score reader of {name} returns no level', _FIX, found=[])
        return scores

    def require_boxes(self, head: nn.Module, width: int) -> list[Tensor]:
        """Return the boxes, if they lie at the locations of the class scores.

        Raises:
            ConfigError: If they are unknown, or have another form.
        """
        name = type(head).__name__
        if self.boxes is None or self.kind is None:
            raise ConfigError(
                '',
                f'boxes of {name} cannot be compared: its score reader returns none',
                'Use methods on class scores or taps, or register a reader that returns a '
                'HeadOutput with boxes.',
                found=None,
            )
        if self.kind not in KINDS:
            words = ', '.join(map(repr, KINDS))
            raise ConfigError('', f'boxes of {name} must be one of {words}', found=self.kind)
        boxes = list(self.boxes)
        sizes = [tuple(one.shape) for one in boxes]
        values = {_values_of(box, one, width) for box, one in zip(boxes, self.scores, strict=False)}
        fits = values.pop() if len(values) == 1 and len(boxes) == len(self.scores) else 0
        if not fits or (self.kind == 'distribution') != (fits > 4):
            raise ConfigError(
                '',
                f'boxes of {name} must have 4 values at each location of the class scores, times '
                'the bins of a distribution',
                found=sizes,
            )
        return boxes


def _values_of(box: Tensor, scores: Tensor, width: int) -> int:
    """Return the number of values of a box at each anchor; 0 if the boxes lie elsewhere."""
    anchors = scores.shape[1] // width
    same = box.shape[:1] + box.shape[2:] == scores.shape[:1] + scores.shape[2:]
    return box.shape[1] // anchors if same and box.shape[1] % (4 * anchors) == 0 else 0


def rows_of_boxes(maps: Sequence[Tensor], anchors: Sequence[int], distribution: bool) -> Tensor:
    """Return the boxes of all locations, (N, A, 4), or (N, A, 4, bins) for distributions.

    Args:
        maps: (N, anchors * 4 * bins, H, W) a level.
        anchors: Number of anchors of a cell, level by level.
        distribution: Whether the boxes have bins.
    """
    found = []
    for one, number in zip(maps, anchors, strict=True):
        bins = one.shape[1] // (4 * number)
        rows = one.permute(0, 2, 3, 1).reshape(len(one), -1, 4, bins)
        found.append(rows if distribution else rows[..., 0])
    return torch.cat(found, dim=1)


def stated_anchors(head: object) -> list[int]:
    """Return the number of anchors of each level, if a generator of the head states it."""
    found = getattr(getattr(head, 'prior_generator', None), 'num_base_priors', None)
    return [int(one) for one in found] if isinstance(found, (list, tuple)) else []
