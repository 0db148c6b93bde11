"""Boxes of dense heads as bytes, at the locations that a row keeps."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmkd_plugin.boxes import BoxOutputs, Levels
from mmkd_plugin.replay.logits import Bytes, from_bytes, to_bytes


@dataclass(frozen=True)
class BoxForm:
    """How the boxes of a dense head are coded, and their bytes.

    Args:
        kind: As in :class:`~mmkd_plugin.boxes.BoxOutputs`, like the next three.
        bins: Number of bins.
        coding: Coding of deltas.
        priors: Anchors, or points, of the first cell of each level.

    Example:
        >>> BoxForm('distribution', bins=17).nbytes('float16')
        136
    """

    kind: str
    bins: int = 1
    coding: str = ''
    priors: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, boxes: BoxOutputs) -> 'BoxForm':
        """Return the form of these boxes."""
        return cls(boxes.kind, boxes.bins, boxes.coding, boxes.priors)

    def nbytes(self, dtype: str) -> int:
        """Return the bytes of one location."""
        return 4 * self.bins * np.dtype(dtype).itemsize

    def encode(self, boxes: BoxOutputs, chosen: NDArray[np.int64], dtype: str) -> Bytes:
        """Return the boxes of N images as bytes.

        Args:
            boxes: Boxes of N images.
            chosen: The kept locations (N, K), -1 where there is none.
            dtype: ``'float16'`` or ``'float32'``.
        """
        images, columns = (chosen >= 0).nonzero()
        locations = torch.from_numpy(chosen[images, columns]).to(boxes.values.device)
        values = boxes.values[torch.from_numpy(images).to(locations.device), locations]
        block = np.zeros((*chosen.shape, self.nbytes(dtype)), np.uint8)
        block[images, columns] = to_bytes(values, dtype, 'boxes')
        return block.reshape(len(block), chosen.shape[1] * self.nbytes(dtype))

    def decode(self, block: Bytes, chosen: NDArray[np.int64], levels: Levels, dtype: str) -> Tensor:
        """Return the values of boxes (N, A, 4) or (N, A, 4, bins); 0 at all other locations."""
        total = sum(rows * columns * anchors for rows, columns, anchors in levels)
        bins = (self.bins,) if self.bins > 1 else ()
        values = torch.zeros(len(block), total, 4, *bins)
        images, columns = (chosen >= 0).nonzero()
        data = block.reshape(*chosen.shape, self.nbytes(dtype))[images, columns]
        locations = torch.from_numpy(chosen[images, columns])
        found = from_bytes(data, dtype).reshape(len(data), 4, *bins)
        values[torch.from_numpy(images), locations] = found
        return values
