"""The smallest real images at hand: scikit-learn's handwritten digits."""

import numpy as np

from mmkd_plugin.datasets.array_dataset import ArrayDataset, Images, Labels
from mmkd_plugin.registry import DATASETS


@DATASETS.register_module()
class Digits(ArrayDataset):
    """1,797 handwritten digits of 8x8 pixels: 896 to train, 454 to validate, 447 to test.

    Nothing is downloaded, since scikit-learn contains them. They are easy: they suit tests, not
    studies.

    Args:
        **kwargs: See :class:`~mmkd_plugin.datasets.array_dataset.ArrayDataset`: ``split``,
            ``labels``, ``pipeline``, ...

    Raises:
        ImportError: If scikit-learn is not installed.

    Example:
        >>> digits = Digits(split='val')
        >>> len(digits), digits.get_data_info(0)['img'].shape
        (454, (8, 8, 1))

    Reference:
        UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak), the test part, as in
        scikit-learn.
    """

    def read_all(self) -> tuple[Images, Labels]:
        """Return all images, their 17 levels of grey stretched over 0..255, and their labels."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                'Digits needs scikit-learn. Run: `pip install scikit-learn`'
            ) from error
        digits = load_digits()
        return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)
