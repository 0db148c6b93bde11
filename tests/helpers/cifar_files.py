"""Small files in CIFAR's own format on disk, which stock MMPretrain reads and verifies."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmpretrain.datasets import CIFAR10, CIFAR100

TRAIN, TEST = 20, 20  # images in all


def write_cifar(dataset: type[CIFAR10], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every file of ``dataset``, and replace the checksums that it expects by theirs."""
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    for attribute, images in (('train_list', TRAIN), ('test_list', TEST)):
        files = [name for name, _ in getattr(dataset, attribute)]
        sums = [
            [name, _write(folder / name, images // len(files), dataset is CIFAR100)]
            for name in files
        ]
        monkeypatch.setattr(dataset, attribute, sums)


def _write(path: Path, images: int, fine: bool) -> str:
    random = np.random.default_rng(len(path.name))
    labels = random.integers(100 if fine else 10, size=images).tolist()
    batch: dict[str, Any] = dict(data=random.integers(256, size=(images, 3072), dtype=np.uint8))
    batch |= dict(fine_labels=labels, coarse_labels=[0] * images) if fine else dict(labels=labels)
    path.write_bytes(pickle.dumps(batch, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()
