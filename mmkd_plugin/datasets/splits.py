"""Fixed splits of data sets that come without any."""

import numpy as np
from numpy.typing import NDArray

SPLITS = ('train', 'val', 'test')


def split_rows(labels: NDArray[np.int64], split: str) -> NDArray[np.int64]:
    """Choose the rows of a stratified split: a rule without a random generator, so the same in every version of numpy.

    Within each class, in the order of the file, the first half of the images trains; the others validate and test in
    turn. (Neighbours in the file are often by one writer: halves, rather than every other image, keep the writers of the
    training images apart from the others.)

    Args:
        labels: Classes of all images, (N,), in the order of the file.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Returns:
        Indices into ``labels``, by the place within the class: the classes take turns, so that every beginning of a split
        is stratified too.

    Raises:
        ValueError: If ``split`` is none of the three.
    """
    if split not in SPLITS:
        raise ValueError(f'split: expected one of {SPLITS}, got {split!r}')
    rank = np.zeros_like(labels)  # how many images of its class stand before an image
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
