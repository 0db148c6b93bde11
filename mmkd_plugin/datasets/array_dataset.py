"""What the data sets that live in memory share: an ordinary MMPretrain data set of small arrays."""

from typing import Any, ClassVar

import numpy as np
from mmengine.dataset import force_full_init
from mmpretrain.datasets import BaseDataset
from numpy.typing import NDArray

from mmkd_plugin.datasets.splits import SPLITS, split_rows

Images = NDArray[np.uint8]  # (N, H, W)
Labels = NDArray[np.int64]  # (N,)


class ArrayDataset(BaseDataset):
    """Grey images of the ten digits, held as arrays: no file is read per item, so an item costs microseconds.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``: fixed, disjoint and stratified, see :func:`split_rows`.
        labels: False leaves the labels out, as in a data set that nobody has labelled.
        **kwargs: As in MMPretrain's ``BaseDataset``: ``pipeline``, ``indices``, ``test_mode``, ``metainfo``, ...

    Raises:
        ValueError: If ``split`` is none of the three.
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=tuple('0123456789'))

    def __init__(self, split: str = 'train', labels: bool = True, **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(
                f'{type(self).__name__}.split: expected one of {SPLITS}, got {split!r}'
            )
        self.split = split
        self.labels = labels
        super().__init__(ann_file='', serialize_data=False, **kwargs)

    def read_all(self) -> tuple[Images, Labels]:
        """Read the images of all splits, in the order of their file."""
        raise NotImplementedError

    def load_split(self) -> tuple[Images, Labels]:
        """Give the images of this split, as they are trained on."""
        images, labels = self.read_all()
        rows = split_rows(labels, self.split)
        return images[rows], labels[rows]

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images, (H, W, 1) each, as MMPretrain wants them."""
        images, labels = self.load_split()
        shape = images.shape[1:]
        records = [dict(img=image[..., None], img_shape=shape, ori_shape=shape) for image in images]
        if self.labels:
            for record, label in zip(records, labels, strict=True):
                record['gt_label'] = int(label)
        return records

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Give one image to the pipeline; only the image is copied, where the host would copy the whole record deeply."""
        record: dict[str, Any] = self.data_list[idx]
        return {**record, 'img': record['img'].copy(), 'sample_idx': idx % len(self.data_list)}

    def extra_repr(self) -> list[str]:
        """Describe the data set in MMPretrain's ``repr``."""
        return [f'Split: \t{self.split}', f'Labels: \t{self.labels}']
