"""The smallest real images at hand: scikit-learn's handwritten digits."""

import numpy as np

from mmkd_plugin.datasets.array_dataset import ArrayDataset, Images, Labels
from mmkd_plugin.registry import DATASETS


@DATASETS.register_module()
class Digits(ArrayDataset):
    """1,797 handwritten digits of 8x8 pixels: 896 to train, 454 to validate, 447 to test.

    Nothing is downloaded: scikit-learn brings them. They are easy: they suit tests, not studies.

    Args:
        **kwargs: See :class:`ArrayDataset`: ``split``, ``labels``, ``pipeline``, ...

    Source: UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak), the test part, as in scikit-learn.
    """

    def read_all(self) -> tuple[Images, Labels]:
        """Read the images and stretch their 17 levels of grey over 0..255."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "Digits needs scikit-learn: pip install 'mmkd_plugin[demo]'"
            ) from error
        digits = load_digits()
        return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)
