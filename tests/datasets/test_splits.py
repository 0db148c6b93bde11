import numpy as np
from helpers.errors import raises_config_error

from mmkd_plugin.datasets.splits import SPLITS, split_rows


def test_split_rows_equals_the_rule_by_hand() -> None:
    # Class 0 is in rows 0 2 3 5 7, class 1 in rows 1 4 6. Halves, rounded down: rows 0 2 and row 1
    # train. The rest is 3 5 7 and 4 6; every other one validates (3 7 and 4) and tests (5 and 6).
    # The order is by rank within the class: row 4, second of its class, precedes row 3, a third.
    labels = np.array([0, 1, 0, 0, 1, 0, 1, 0])
    assert split_rows(labels, 'train').tolist() == [0, 1, 2]
    assert split_rows(labels, 'val').tolist() == [4, 3, 7]
    assert split_rows(labels, 'test').tolist() == [6, 5]


def test_split_rows_puts_every_image_into_one_split() -> None:
    labels = np.random.default_rng(0).integers(10, size=1797)
    rows = np.concatenate([split_rows(labels, split) for split in SPLITS])
    assert sorted(rows) == list(range(1797))


def test_split_rows_begins_stratified() -> None:
    labels = np.repeat(np.arange(10), 500)
    for split in SPLITS:
        first = labels[split_rows(labels, split)][:100]
        assert np.bincount(first).tolist() == [10] * 10


def test_split_rows_of_an_unknown_split_is_refused() -> None:
    with raises_config_error('split', 'trial', "'train', 'val', 'test'"):
        split_rows(np.zeros(4, dtype=np.int64), 'trial')
