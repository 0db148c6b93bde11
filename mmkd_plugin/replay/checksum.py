"""The images inside a sample of any host: their checksum, and a mark on the sample."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor

from mmkd_plugin.errors import ConfigError

_FORM = (
    "The pipeline must end with the host's Pack… transform, which makes dict(inputs=…, "
    'data_samples=…).'
)


def checksum_of(inputs: Any) -> int:
    """Return the CRC-32 of images: one tensor, or lists and dicts of them.

    It covers the type, shape and bytes of each.

    Example:
        >>> checksum_of(torch.zeros(3, 2, 2)) == checksum_of(torch.zeros(3, 4, 1))
        False
    """
    found = 0
    for tensor in _leaves(inputs, Tensor):
        found = zlib.crc32(f'{tensor.dtype}{tuple(tensor.shape)}'.encode(), found)
        found = zlib.crc32(_bytes(tensor), found)
    return found


def mark(sample: Any, index: int, view: int) -> None:
    """Write index, view and checksum into the metainfo ``replay`` of all data samples.

    Args:
        sample: A sample of a data set, ``dict(inputs=…, data_samples=…)``. Both may be nested, as
            by several views or branches.
        index: Index of the image.
        view: Number of the view.

    Raises:
        ConfigError: If there is no image or no data sample.
    """
    inputs = sample.get('inputs') if isinstance(sample, Mapping) else None
    if next(_leaves(inputs, Tensor), None) is None:
        raise ConfigError('dataset', 'must return images under inputs', _FORM, found=_form(sample))
    note = dict(index=index, view=view, checksum=checksum_of(inputs))
    elements = list(_leaves(sample.get('data_samples'), BaseDataElement))
    if not elements:
        raise ConfigError(
            'dataset', 'must return data samples under data_samples', _FORM, found=_form(sample)
        )
    for element in elements:
        element.set_metainfo(dict(replay=dict(note)))


def replayed_rows(
    data_samples: Sequence[Any], length: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Return the rows of a batch in a store, and the checksums of its images.

    View v of image i is row v N + i, so the rows of an epoch lie side by side.

    Args:
        data_samples: Data samples of a batch from a ReplayedDataset.
        length: N, the number of images.

    Raises:
        ConfigError: If a sample is from another data set.
    """
    notes = [getattr(sample, 'replay', None) for sample in data_samples]
    if None in notes:
        raise ConfigError(
            'train_dataloader.dataset',
            'must be a ReplayedDataset where a teacher has replay',
            "Write dataset=dict(type='mmkd_plugin.ReplayedDataset', views=50, dataset=…).",
        )
    rows = [note['view'] * length + note['index'] for note in notes if note]
    return np.array(rows, np.int64), np.array([n['checksum'] for n in notes if n], np.uint32)


def _leaves(value: Any, kind: type[Any]) -> Iterator[Any]:
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner, kind)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, kind)


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _form(sample: Any) -> str:
    keys = f' of {", ".join(map(str, sample))}' if isinstance(sample, Mapping) else ''
    return f'{type(sample).__name__}{keys}'
