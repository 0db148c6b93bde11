"""Fixed splits of data sets that come without any."""

import numpy as np
from numpy.typing import NDArray

from mmkd_plugin.errors import one_of

SPLITS = ('train', 'val', 'test')


def split_rows(labels: NDArray[np.int64], split: str) -> NDArray[np.int64]:
    """Return the rows of a stratified split.

    The rule needs no random generator, so every version of numpy gives the same split. Within each
    class, in the order of the file, the first half of the images trains. The others validate and
    test in turn.

    Neighbours in the file are often by one writer. Halves, rather than every other image, keep the
    writers of the training images separate from the others.

    Args:
        labels: Classes of all images, (N,), in the order of the file.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Returns:
        Indices into ``labels``, sorted by the rank of an image within its class. The classes take
        turns, so that every beginning of a split is stratified too.

    Raises:
        ConfigError: If ``split`` is none of the three.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
        >>> [split_rows(labels, split).tolist() for split in SPLITS]
        [[0, 4, 1, 5], [2, 6], [3, 7]]
    """
    one_of('split', split, SPLITS)
    rank = np.zeros_like(labels)  # how many images of its class precede an image
    half = np.zeros_like(labels)  # half the size of its class
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rank[rows] = np.arange(len(rows))
        half[rows] = len(rows) // 2
    in_train = rank < half
    chosen = (
        in_train if split == 'train' else ~in_train & ((rank - half) % 2 == SPLITS.index(split) - 1)
    )
    order = np.lexsort((labels, rank))
    return order[chosen[order]]
