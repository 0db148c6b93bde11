"""Class scores of dense heads as bytes: at the locations that teach."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_plugin.boxes import Levels
from mmkd_plugin.errors import ConfigError, positive_integer
from mmkd_plugin.outputs import ClassScores
from mmkd_plugin.replay.logits import Bytes, LogitCodec
from mmkd_plugin.replay.truncation import Truncation

#: Logit of a class at a location that was left out: its probability is 2e-22.
ABSENT = -50.0


@dataclass(frozen=True)
class DenseCodec:
    """Scores of a dense head as bytes: those of at most K locations an image.

    A location is kept if a class that is not the background has a probability of at least
    ``background``. The foreground weighting of methods gives weight 0 to all others, so nothing is
    lost for it. With several teachers a location counts if any of them scores it so high. If there
    are more than K, the most confident are kept.

    A row states the sizes of its levels. In another batch, whose padding differs, each location
    keeps its level, row and column.

    Args:
        codec: Codec of the logits of one location.
        anchors: Number of anchors of each level.
        locations: K.
        background: Probability from which a location is kept, above 0.
        has_background: Whether the last column is the background.

    Raises:
        ConfigError: If ``background`` is not in (0, 1), or if a softmax has no background class.
    """

    codec: LogitCodec
    anchors: tuple[int, ...]
    locations: int
    background: float = 0.05
    has_background: bool = False

    def __post_init__(self) -> None:
        positive_integer('locations', self.locations)
        number = isinstance(self.background, (int, float)) and not isinstance(self.background, bool)
        if not number or not 0 < self.background < 1:
            raise ConfigError(
                'background',
                'must be a probability in (0, 1) where a dense head is stored: at 0 every location '
                'of every level would be kept',
                'Use the background of the method, such as 0.05.',
                found=self.background,
            )
        if self.codec.activation == 'softmax' and not self.has_background:
            raise ConfigError(
                'replay',
                'cannot store a softmax without a background class at some locations only',
                'Train without replay.',
            )

    @property
    def nbytes(self) -> int:
        """Bytes of one image: the sizes of levels, a count, and K locations."""
        return 8 * len(self.anchors) + 4 + self.locations * (4 + self.codec.nbytes)

    def encode(
        self, scores: ClassScores, truncation: Truncation, priority: Tensor | None = None
    ) -> tuple[Bytes, NDArray[np.int64]]:
        """Return the scores of N images as bytes (N, nbytes), and the kept locations.

        Args:
            scores: Class scores of a batch.
            truncation: Receives what is lost.
            priority: The largest probability of a class over several teachers, (N, A); None takes
                that of these scores.

        Returns:
            The bytes, and the locations (N, K) in ascending order; -1 where there are fewer.
        """
        confidence = scores.confidence() if priority is None else priority
        wanted = confidence >= self.background
        wanted = wanted if scores.valid is None else wanted & scores.valid
        found = torch.where(wanted, confidence, confidence.new_full((), -1.0)).cpu()
        size = min(self.locations, found.shape[1])
        values, indices = found.topk(size, dim=1)
        kept = values >= 0
        self._count(found, values, kept, truncation)
        order = torch.where(kept, indices, found.shape[1]).sort(dim=1).values
        chosen = np.full((len(found), self.locations), -1, np.int64)
        chosen[:, :size] = torch.where(order < found.shape[1], order, -1).numpy()
        images, columns = (chosen >= 0).nonzero()
        places = torch.from_numpy(chosen[images, columns]).to(scores.logits.device)
        rows = scores.logits.detach()[torch.from_numpy(images).to(places.device), places]
        data = self.codec.encode(rows)
        expected, stored = (
            self.codec.probabilities(one) for one in (rows, self.codec.decode(data))
        )
        truncation.compare(expected, stored)
        block = np.zeros((*chosen.shape, self.codec.nbytes), np.uint8)
        block[images, columns] = data
        numbers = np.where(chosen < 0, 0, chosen).astype('<u4')
        counts = (chosen >= 0).sum(axis=1, keepdims=True).astype('<u4')
        parts = [self._header(scores).view(np.uint8), counts.view(np.uint8), numbers.view(np.uint8)]
        return np.concatenate([*parts, block.reshape(len(block), -1)], axis=1), chosen

    def decode(
        self, data: Bytes, levels: Levels | None = None
    ) -> tuple[Tensor, Levels, Tensor | None, NDArray[np.int64]]:
        """Return the scores of rows of bytes.

        Args:
            data: (N, nbytes).
            levels: (rows, columns, anchors) of each level of the batch. None takes the largest of
                the N images.

        Returns:
            Logits (N, A, C), the levels, the mask of the locations inside the images, and the
            location of each stored row (N, K), -1 where there is none.

        Raises:
            ValueError: If the bytes are no such row.
        """
        depth, number = len(self.anchors), self.locations
        header = np.ascontiguousarray(data[:, : 8 * depth]).view('<u2').astype(np.int64)
        header = header.reshape(len(data), depth, 4)
        split = 8 * depth + 4
        counts = np.ascontiguousarray(data[:, split - 4 : split]).view('<u4')[:, 0]
        if (counts > number).any():
            raise ValueError(f'{counts.max()} of {number} locations')
        stored = np.ascontiguousarray(data[:, split : split + 4 * number]).view('<u4')
        if levels is None:
            largest = header[:, :, :2].max(axis=0).tolist()
            levels = tuple((r, c, a) for (r, c), a in zip(largest, self.anchors, strict=True))
        used = np.arange(number) < counts[:, None]
        chosen = np.full(stored.shape, -1, np.int64)
        for sizes in np.unique(header[:, :, :2].reshape(len(data), -1), axis=0):
            same = (header[:, :, :2].reshape(len(data), -1) == sizes).all(axis=1)
            own = tuple(
                (*size, a) for size, a in zip(sizes.reshape(-1, 2), self.anchors, strict=True)
            )
            chosen[same] = _moved(stored[same].astype(np.int64), used[same], own, levels)
        total = sum(rows * columns * anchors for rows, columns, anchors in levels)
        logits = torch.full((len(data), total, self.codec.columns), ABSENT)
        if self.has_background:
            logits[..., -1] = 0
        images, columns = (chosen >= 0).nonzero()
        block = data[:, split + 4 * number :].reshape(len(data), number, -1)
        places = torch.from_numpy(chosen[images, columns])
        logits[torch.from_numpy(images), places] = self.codec.decode(block[images, columns])
        return logits, levels, _mask(header[:, :, 2:], levels), chosen

    def _count(self, found: Tensor, values: Tensor, kept: Tensor, truncation: Truncation) -> None:
        wanted = found >= 0
        cut = wanted.sum(dim=1) - kept.sum(dim=1)
        truncation.images_cut += int((cut > 0).sum())
        truncation.locations += int(wanted.sum())
        truncation.locations_cut += int(cut.sum())
        weight = float(found.clamp_min(0).double().sum())
        truncation.weight += weight
        if bool((cut > 0).any()):
            truncation.weight_cut += weight - float(values.clamp_min(0).double().sum())

    def _header(self, scores: ClassScores) -> NDArray[np.uint16]:
        """Return rows, columns, and those inside the image, of each level and image (N, 4 L)."""
        count = len(scores.logits)
        sizes = [level[:2] for level in scores.levels]
        if tuple(level[2] for level in scores.levels) != self.anchors or max(max(sizes)) > 65535:
            raise ConfigError(
                'replay', f'stores levels of {self.anchors} anchors', found=scores.levels
            )
        header = np.zeros((count, len(sizes), 4), '<u2')
        header[:, :, :2] = sizes
        header[:, :, 2:] = sizes
        if scores.valid is not None:
            valid = scores.valid.cpu()
            parts = valid.split([r * c * a for r, c, a in scores.levels], dim=1)
            for number, (part, level) in enumerate(zip(parts, scores.levels, strict=True)):
                inside = part.unflatten(1, level)[..., 0]
                header[:, number, 2] = inside.any(dim=2).sum(dim=1).numpy()
                header[:, number, 3] = inside.any(dim=1).sum(dim=1).numpy()
            again = _mask(header[:, :, 2:].astype(np.int64), scores.levels)
            if not bool(valid.all() if again is None else torch.equal(again, valid)):
                raise ValueError('the locations inside an image are no rectangle')
        return header.reshape(count, -1)


def suggested_locations(counts: Sequence[int]) -> int:
    """Return a number of locations for which rows are made, from those that images had.

    It is 1.5 times the largest, rounded up to 32.

    Example:
        >>> suggested_locations([40, 100, 71])
        160
    """
    return -(-max(*counts, 1, 1) * 3 // 64) * 32


def _moved(
    stored: NDArray[np.int64], used: NDArray[np.bool_], own: Levels, levels: Levels
) -> NDArray[np.int64]:
    """Return the locations in other levels; -1 where unused, or outside of them."""
    ends = np.cumsum([rows * columns * anchors for rows, columns, anchors in own])
    if (stored[used] >= ends[-1]).any():
        raise ValueError(f'location {stored[used].max()} of {ends[-1]}')
    if own == levels:
        return np.where(used, stored, -1)
    starts = np.concatenate([[0], ends[:-1]])
    sizes = [rows * columns * anchors for rows, columns, anchors in levels]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    depth = np.searchsorted(ends, np.where(used, stored, 0), side='right')
    _, widths, anchors = np.array(own).T
    height, width, _ = np.array(levels).T
    cell, anchor = np.divmod(np.where(used, stored, 0) - starts[depth], anchors[depth])
    row, column = np.divmod(cell, widths[depth])
    inside = used & (row < height[depth]) & (column < width[depth])
    moved = offsets[depth] + (row * width[depth] + column) * anchors[depth] + anchor
    return np.where(inside, moved, -1)


def _mask(inside: NDArray[np.int64], levels: Levels) -> Tensor | None:
    """Return the mask (N, A) of (rows, columns) inside each image and level; None if all are."""
    masks = []
    for number, (rows, columns, anchors) in enumerate(levels):
        down = np.arange(rows) < inside[:, number, :1]
        across = np.arange(columns) < inside[:, number, 1:]
        grid = down[:, :, None, None] & across[:, None, :, None]
        masks.append(np.broadcast_to(grid, (*grid.shape[:3], anchors)).reshape(len(inside), -1))
    mask = np.concatenate(masks, axis=1)
    return None if mask.all() else torch.from_numpy(mask)
