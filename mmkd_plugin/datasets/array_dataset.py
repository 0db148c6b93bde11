"""The base of data sets that hold small images as arrays in memory."""

from typing import Any, ClassVar

import numpy as np
from mmengine.dataset import force_full_init
from mmpretrain.datasets import BaseDataset
from numpy.typing import NDArray

from mmkd_plugin.datasets.splits import SPLITS, split_rows
from mmkd_plugin.errors import one_of

Images = NDArray[np.uint8]  # (N, H, W)
Labels = NDArray[np.int64]  # (N,)


class ArrayDataset(BaseDataset):
    """Grey images of the ten digits in an ordinary MMPretrain data set.

    No file is read for an item, so an item costs microseconds.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``: fixed, disjoint and stratified. See
            :func:`~mmkd_plugin.datasets.splits.split_rows`.
        labels: False leaves the labels out, as in an unlabelled data set.
        **kwargs: As in MMPretrain's ``BaseDataset``: ``pipeline``, ``indices``, ``test_mode``,
            ``metainfo``, ...

    Raises:
        ConfigError: If ``split`` is none of the three.
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=tuple('0123456789'))

    def __init__(self, split: str = 'train', labels: bool = True, **kwargs: Any) -> None:
        self.split = one_of(f'{type(self).__name__}.split', split, SPLITS)
        self.labels = labels
        super().__init__(ann_file='', serialize_data=False, **kwargs)

    def read_all(self) -> tuple[Images, Labels]:
        """Return the images and labels of all splits, in the order of their file."""
        raise NotImplementedError

    def load_split(self) -> tuple[Images, Labels]:
        """Return the images and labels of this split, as they are trained on."""
        images, labels = self.read_all()
        rows = split_rows(labels, self.split)
        return images[rows], labels[rows]

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a record for each image, (H, W, 1), in the form that MMPretrain needs."""
        images, labels = self.load_split()
        shape = images.shape[1:]
        records = [dict(img=image[..., None], img_shape=shape, ori_shape=shape) for image in images]
        if self.labels:
            for record, label in zip(records, labels, strict=True):
                record['gt_label'] = int(label)
        return records

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a record for the pipeline.

        Only its image is copied; MMPretrain would copy the whole record deeply.
        """
        record: dict[str, Any] = self.data_list[idx]
        return {**record, 'img': record['img'].copy(), 'sample_idx': idx % len(self.data_list)}

    def extra_repr(self) -> list[str]:
        """Return the lines that describe this data set in MMPretrain's ``repr``."""
        return [f'Split: \t{self.split}', f'Labels: \t{self.labels}']
