import numpy as np
import pytest

from mmkd_plugin.datasets.splits import SPLITS, split_rows


def test_rule_derived_by_hand() -> None:
    # Class 0 stands in rows 0 2 3 5 7, class 1 in rows 1 4 6. Halves, rounded down: rows 0 2 and row 1 train. Of the rest,
    # 3 5 7 and 4 6, every other one validates (3 7 and 4) and tests (5 and 6). The order is by place within the class: row
    # 4 is the second of its class and goes before row 3, the third of its own.
    labels = np.array([0, 1, 0, 0, 1, 0, 1, 0])
    assert split_rows(labels, 'train').tolist() == [0, 1, 2]
    assert split_rows(labels, 'val').tolist() == [4, 3, 7]
    assert split_rows(labels, 'test').tolist() == [6, 5]


def test_every_image_is_in_one_split() -> None:
    labels = np.random.default_rng(0).integers(10, size=1797)
    rows = np.concatenate([split_rows(labels, split) for split in SPLITS])
    assert sorted(rows) == list(range(1797))


def test_beginnings_are_stratified() -> None:
    labels = np.repeat(np.arange(10), 500)
    for split in SPLITS:
        first = labels[split_rows(labels, split)][:100]
        assert np.bincount(first).tolist() == [10] * 10


def test_unknown_split() -> None:
    with pytest.raises(
        ValueError, match=r"split: expected one of \('train', 'val', 'test'\), got 'trial'"
    ):
        split_rows(np.zeros(4, dtype=np.int64), 'trial')
